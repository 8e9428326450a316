//! A packet's way: between the applications' interface, WireGuard sessions and paths. Pure: packets and time come in, what is to be sent
//! goes out. Knows the tunnels and the names of carriers; knows nobody who decides (who is whose, which path is taken): that comes in as
//! a [`Table`](table::Table).

mod checksum;
pub mod coalesce;
pub mod command;
pub mod demux;
pub mod packet;
pub mod segment;
pub mod table;
pub mod vnet;
pub mod waiting;
