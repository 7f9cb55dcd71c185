//! Seeded streams of numbers, one for each purpose, so that a change in one leaves the others alone.

/// `SplitMix64`: the same numbers for the same seed on every machine and in every release.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of `seed` for the purpose named `salt`.
    pub(crate) fn new(seed: u64, salt: &str) -> Self {
        let salt = salt.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = Self(seed ^ salt);
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number from `low` to `high`, both possible.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// A number from `low` to `high`, small ones as likely as large ones.
    pub(crate) fn log_range(&mut self, low: u64, high: u64) -> u64 {
        let octaves = (high / low.max(1)).ilog2();
        let top = low.max(1) << self.below(u64::from(octaves) + 1);
        self.range(low, top.saturating_mul(2).min(high))
    }

    /// True in `per_mille` of a thousand cases.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[size(self.below(bytes(choices.len())))]
    }
}

/// A length as a number of bytes.
pub(crate) fn bytes(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits")
}

/// A number of bytes as a length.
pub(crate) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a length fits")
}
