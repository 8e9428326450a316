//! What a process asks of the system for itself.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Raises the limit of open descriptors as far as the system lets a process raise it: shells and service managers begin with a low one, for
/// the sake of programs that cannot count further. How many may be open from now on.
///
/// # Errors
/// The kernel refused; the limit is what it was.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let held = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: held.maximum, maximum: held.maximum })?;
    Ok(held.maximum.unwrap_or(u64::MAX))
}

/// Shuts other processes of the same user out: they cannot trace this one, nor read its memory, environment or files by `/proc`, and no core
/// of it is written. Who is root still can. To be called by programs that hold keys, first of all.
///
/// # Errors
/// The kernel refused.
pub fn conceal() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let maximum = getrlimit(Resource::Core).maximum;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let most = raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), most);
    }
}
