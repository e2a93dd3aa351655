//! The bytes that probes send: a sequence that both ends can compute, so that content is verified while it flows.
//!
//! Every 8-byte word is a mix of the seed and the word's number (a SplitMix64 step): a byte that is lost, doubled,
//! swapped or changed makes a word differ, and compression or a lucky repetition cannot hide it.

/// Bytes made at a time.
pub const CHUNK: usize = 64 * 1024;

/// A sequence of bytes and how far it was read.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    /// The sequence of `seed`, from its start.
    pub fn new(seed: u64) -> Self {
        Pattern { seed, position: 0 }
    }

    /// How many bytes were made or verified.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            let word = self.word();
            let within = (self.position % 8) as usize;
            let take = (8 - within).min(buffer.len() - filled);
            buffer[filled..filled + take].copy_from_slice(&word[within..within + take]);
            filled += take;
            self.position += take as u64;
        }
    }

    /// Compares `received` with the next bytes; on a difference, returns the position of the first wrong byte.
    pub fn verify(&mut self, received: &[u8]) -> Result<(), u64> {
        let mut done = 0;
        while done < received.len() {
            let word = self.word();
            let within = (self.position % 8) as usize;
            let take = (8 - within).min(received.len() - done);
            let expected = &word[within..within + take];
            if received[done..done + take] != *expected {
                let same = received[done..].iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Err(self.position + same as u64);
            }
            done += take;
            self.position += take as u64;
        }
        Ok(())
    }

    fn word(&self) -> [u8; 8] {
        let number = self.seed.wrapping_add((self.position / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_sequence_is_the_same_sequence() {
        let mut whole = vec![0; 1000];
        Pattern::new(5).fill(&mut whole);
        let (mut made, mut verified) = (Pattern::new(5), Pattern::new(5));
        let mut pieces = Vec::new();
        for length in [1, 7, 8, 9, 100, 875] {
            let mut piece = vec![0; length];
            made.fill(&mut piece);
            verified.verify(&piece).unwrap();
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole);
        assert_eq!(verified.position(), 1000);
    }

    #[test]
    fn a_changed_lost_or_doubled_byte_is_found_where_it_is() {
        let mut bytes = vec![0; 64];
        Pattern::new(9).fill(&mut bytes);
        let mut changed = bytes.clone();
        changed[37] ^= 0x80;
        assert_eq!(Pattern::new(9).verify(&changed), Err(37));
        let mut lost = bytes.clone();
        lost.remove(20);
        assert!(Pattern::new(9).verify(&lost).is_err_and(|at| (20..24).contains(&at)));
        assert!(Pattern::new(10).verify(&bytes).is_err());
    }
}
