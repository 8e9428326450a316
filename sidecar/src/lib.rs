//! The campfire peer: TUN, UDP, the driver around the mesh, status

pub mod data;
pub mod plane;
