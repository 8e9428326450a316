//! Memory that the kernel is told of once and writes to later.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// An array that stays where it is and that pointers may be kept to. A `Box` claims that no other pointer leads to what it holds.
pub(crate) struct Fixed<T>(NonNull<[T]>);

// SAFETY: it owns what it points at.
unsafe impl<T: Send> Send for Fixed<T> {}

impl<T: Clone> Fixed<T> {
    /// So many of the same.
    pub(crate) fn new(value: T, length: usize) -> Self {
        Self(NonNull::from(Box::leak(vec![value; length].into_boxed_slice())))
    }
}

impl<T> Fixed<T> {
    /// The address of one; beyond the end it leads nowhere. Whoever follows it must do so while nobody holds a reference to what is here.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        self.0.as_ptr().cast::<T>().wrapping_add(index)
    }
}

impl<T> Deref for Fixed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: it points at what was leaked in `new`, borrowed here as long as this is.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Fixed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the same, exclusively.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Fixed<T> {
    fn drop(&mut self) {
        // SAFETY: leaked out of such a box in `new`, and given back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
