//! Waiting for many descriptors, and being woken by other threads.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Descriptors that one wait reports at most.
const READY: usize = 64;

/// Waits for many descriptors to become readable.
pub struct Epoll {
    fd: OwnedFd,
    /// Tokens of those that the last wait reported.
    ready: Vec<u64>,
}

impl Epoll {
    /// One that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(READY) })
    }

    /// Reports `token` whenever `fd` can be read (level-triggered), until it is closed.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Waits until a descriptor is readable or `timeout` (`None`: for ever) has passed, and gives how many there are to be read with
    /// [`token`](Self::token). A signal may end it early, with none.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.ready.clear();
        let mut events = [const { MaybeUninit::<Event>::uninit() }; READY];
        match epoll::wait(&self.fd, &mut events, timeout.map(timespec).as_ref()) {
            Ok((events, _)) => self.ready.extend(events.iter().map(|event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.ready.len())
    }

    /// The token of the `index`-th readable descriptor of the last wait.
    pub fn token(&self, index: usize) -> Option<u64> {
        self.ready.get(index).copied()
    }
}

/// Whole milliseconds, rounded up: older kernels know no less, and rounding down would spin.
fn timespec(duration: Duration) -> Timespec {
    let millis = i64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

/// Waits until `fd` takes data again, at most so long; whether it does.
pub(crate) fn wait_writable(fd: impl AsFd, most: Duration) -> bool {
    poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&timespec(most))) == Ok(1)
}

/// Makes an [`Epoll`] that watches it return: with one system call, however many threads wake it before it looks.
pub struct Wake {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl Wake {
    /// One that is not signalled.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?, pending: AtomicBool::new(false) })
    }

    /// Wakes. Whatever was left for the other thread before this call is seen by it after its [`clear`](Self::clear).
    pub fn signal(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It refuses only when its counter is full, and then it is readable anyhow.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the signal back. To be called before looking at what others left: what comes later signals again.
    pub fn clear(&self) {
        // Failing means that it was not signalled.
        let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
        // Acquires what was left before the last wake, which wrote nothing.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn a_wake_ends_a_wait_once_however_often_it_was_signalled() {
        let (mut epoll, wake) = (Epoll::new().unwrap(), Arc::new(Wake::new().unwrap()));
        epoll.add(&*wake, 7).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
        let other = Arc::clone(&wake);
        std::thread::spawn(move || (0..3).for_each(|_| other.signal())).join().unwrap();
        assert_eq!(epoll.wait(None).unwrap(), 1);
        assert_eq!((epoll.token(0), epoll.token(1)), (Some(7), None));
        wake.clear();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
        wake.signal();
        assert_eq!(epoll.wait(None).unwrap(), 1);
    }

    #[test]
    fn a_wait_lasts_as_long_as_it_was_told() {
        let mut epoll = Epoll::new().unwrap();
        let begun = Instant::now();
        assert_eq!(epoll.wait(Some(Duration::from_micros(20_500))).unwrap(), 0);
        assert!(begun.elapsed() >= Duration::from_micros(20_500), "rounded up");
    }
}
