//! How a target that plays a life reads its input.

/// The input, read from the front; zeros when it is used up.
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// The next byte, while there is one.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, or 0.
    pub fn small(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    /// So many of the next bytes as the first of them says, at most `most`.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = usize::from(self.small()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}
