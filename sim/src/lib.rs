//! A world for tests: clock, NATs, links, loss, many meshes and servers in one process
