//! A TURN server (RFC 8656) with campfire rooms: a pure core and its tokio shell
