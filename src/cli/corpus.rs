//! Texts that are made from a seed: the same call gives the same bytes on every machine.

/// A kind of text. The kinds differ in their demands on a table of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corpus {
    /// Lines of English length over a small vocabulary whose short words are frequent: in cache.
    English,
    /// Twelve words a line, by Zipf's law over a million: skewed, and out of the second-level
    /// cache.
    Zipf,
    /// Twelve words a line, uniform over eight million: nearly every probe misses the cache.
    Uniform,
}

impl Corpus {
    /// All kinds.
    pub const ALL: [Corpus; 3] = [Corpus::English, Corpus::Zipf, Corpus::Uniform];

    /// Returns the name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Corpus::English => "english",
            Corpus::Zipf => "zipf",
            Corpus::Uniform => "uniform",
        }
    }

    fn vocabulary(self) -> u64 {
        match self {
            Corpus::English => 60_000,
            Corpus::Zipf => 1_000_000,
            Corpus::Uniform => 8_000_000,
        }
    }

    /// Returns at least `text_bytes` of whole lines.
    pub fn text(self, text_bytes: usize, seed: u64) -> Vec<u8> {
        let mut random = Random(seed);
        let mut text = Vec::with_capacity(text_bytes + 256);
        while text.len() < text_bytes {
            let words = match self {
                Corpus::English => 8 + random.below(12),
                Corpus::Zipf | Corpus::Uniform => 12,
            };
            for _ in 0..words {
                let word = match self {
                    Corpus::Uniform => random.below(self.vocabulary()),
                    Corpus::English | Corpus::Zipf => random.zipf(self.vocabulary()),
                };
                spell(word, &mut text);
                text.push(b' ');
            }
            text.pop();
            text.push(b'\n');
        }
        text
    }
}

/// Appends word `number`: letters in base 26, the least significant first. All words are distinct.
fn spell(mut number: u64, text: &mut Vec<u8>) {
    let start = text.len();
    loop {
        text.push(b'a' + (number % 26) as u8);
        number /= 26;
        if number == 0 {
            break;
        }
    }
    // Upper case, so an added letter is no digit of another word.
    while text.len() < start + 3 {
        text.push(b'Z');
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// Returns a rank from 0 with a probability near 1 / (rank + 1), by the inverse of the
    /// continuous distribution.
    fn zipf(&mut self, ranks: u64) -> u64 {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (((ranks as f64 + 1.0).powf(uniform)) as u64 - 1).min(ranks - 1)
    }
}
