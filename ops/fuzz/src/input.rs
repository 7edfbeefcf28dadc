//! Bytes as a source of choices. When they are used up, every choice is the first one.

use ev_contract::time::UnixMs;

pub struct Choices<'b> {
    rest: &'b [u8],
}

impl<'b> Choices<'b> {
    pub const fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Once in `n`.
    pub fn rarely(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    pub fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| make(self))
    }

    pub fn u64(&mut self) -> u64 {
        let mut value = 0;
        for _ in 0..8 {
            value = value << 8 | u64::from(self.byte());
        }
        value
    }

    /// Mostly small, sometimes anything, sometimes an extreme.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            0..=199 => u64::from(self.byte()),
            200..=229 => u64::from(self.byte()) * 65_537,
            230..=244 => self.u64(),
            245..=249 => u64::MAX,
            250..=252 => u64::MAX / 2,
            253.. => 0,
        }
    }

    /// Mostly near `near`, sometimes at the ends of time.
    pub fn time(&mut self, near: UnixMs) -> UnixMs {
        match self.byte() {
            0..=99 => near,
            100..=179 => near.plus_ms(i64::from(self.byte()) * 1_000),
            180..=229 => near.plus_ms(i64::from(self.byte()) * -1_000),
            230..=244 => near.plus_ms(i64::from(self.byte()) * 86_400_000 - 10_000_000_000),
            245..=249 => UnixMs(i64::MAX),
            250..=252 => UnixMs(i64::MIN),
            253.. => UnixMs(self.u64().cast_signed()),
        }
    }

    pub fn text(&mut self) -> String {
        match self.byte() % 8 {
            0 => String::new(),
            7 => "é".repeat(usize::from(self.byte()) * 9),
            _ => format!("word-{}", self.byte() % 4),
        }
    }
}
