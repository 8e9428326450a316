//! One peer's brain: camping, roster, links, paths, routing. Pure.
