//! One peer's brain: camping, roster, links, paths, routing. Pure.

pub mod io;

pub mod config {
    //! What the mesh is given to start with, and what may change while it runs.

    /// A new list of servers or keys.
    #[derive(Debug)]
    pub struct Reconfigure;
}
