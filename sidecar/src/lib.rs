//! The campfire peer: TUN, UDP, the driver around the mesh, status
