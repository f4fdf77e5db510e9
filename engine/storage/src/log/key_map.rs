//! The newest offset of each key, in a fixed amount of memory: 24 bytes a key.
//!
//! Keys are known by a 128-bit hash with a secret of its own: nobody can make two of them meet, which
//! would lose one, and by chance it does not happen.

use model::Offset;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

const SLOT_BYTES: usize = size_of::<Slot>();

/// Two halves of a hash, and the offset plus one: 0 is free. Plain numbers, so that a new map is
/// memory the system has zeroed, which costs nothing before it is used.
type Slot = [u64; 3];
const OFFSET: usize = 2;

pub(crate) struct KeyMap {
    slots: Vec<Slot>,
    used: usize,
    secret: (u64, u64),
}

impl KeyMap {
    /// A map that takes about so many bytes; `secret` must be random.
    pub(crate) fn new(bytes: usize, secret: (u64, u64)) -> Self {
        let slots = (bytes / SLOT_BYTES).max(64);
        assert!(slots >= 4, "a part of it stays free");
        Self { slots: vec![[0; 3]; slots], used: 0, secret }
    }

    /// How many keys more it takes: three quarters of its slots are used at most.
    pub(crate) fn room(&self) -> usize {
        assert!(self.used < self.slots.len(), "a search ends at a free slot");
        (self.slots.len() / 4 * 3).saturating_sub(self.used)
    }

    /// Makes it twice as large.
    pub(crate) fn grow(&mut self) {
        let fresh = Self::new(self.slots.len() * 2 * SLOT_BYTES, self.secret);
        let before = std::mem::replace(self, fresh);
        assert!(before.slots.len() < self.slots.len(), "it grows");
        for &slot in before.slots.iter().filter(|slot| slot[OFFSET] != 0) {
            let at = self.free_for([slot[0], slot[1]]);
            assert_eq!(self.slots[at][OFFSET], 0, "each key once");
            self.slots[at] = slot;
            self.used += 1;
        }
        assert_eq!(self.used, before.used, "no key is lost");
    }

    fn place(&self, key: &[u8]) -> (usize, [u64; 2]) {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(key);
        let hash = hasher.finish128();
        let hash = [hash.h1, hash.h2];
        (self.free_for(hash), hash)
    }

    fn free_for(&self, hash: [u64; 2]) -> usize {
        // The slot a hash belongs to, by its upper bits; the next free or equal one is its own.
        let length = self.slots.len() as u128;
        let mut at = ((u128::from(hash[0]) * length) >> 64) as usize;
        while self.slots[at][OFFSET] != 0 && self.slots[at][..OFFSET] != hash {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        at
    }

    /// Notes a key at an offset; the largest one counts.
    pub(crate) fn insert(&mut self, key: &[u8], offset: Offset) {
        let (at, hash) = self.place(key);
        self.used += usize::from(self.slots[at][OFFSET] == 0);
        assert!(self.used < self.slots.len(), "the caller asks for room first");
        assert!(offset >= Offset::ZERO, "offsets begin at 0");
        let newest = self.slots[at][OFFSET].max(offset.0 as u64 + 1);
        self.slots[at] = [hash[0], hash[1], newest];
    }

    /// The largest offset noted for a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots[self.place(key).0];
        slot[OFFSET].checked_sub(1).map(|offset| Offset(offset as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_offset_of_each_key_counts_until_it_is_full() {
        let mut map = KeyMap::new(24 * 1000, (3, 4));
        assert_eq!(map.room(), 750);
        for n in 0..750u32 {
            map.insert(&n.to_be_bytes(), Offset(i64::from(n)));
            map.insert(&n.to_be_bytes(), Offset(i64::from(n * 2)));
            map.insert(&n.to_be_bytes(), Offset(1));
        }
        assert_eq!(map.room(), 0);
        map.grow();
        assert_eq!(map.room(), 750);
        for n in 0..750u32 {
            assert_eq!(map.get(&n.to_be_bytes()), Some(Offset(i64::from((n * 2).max(1)))));
        }
        assert_eq!(map.get(b"other"), None);
        assert_eq!(map.get(b""), None);
    }
}
