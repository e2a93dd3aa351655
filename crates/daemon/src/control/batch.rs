//! Objects of one transaction on their way into the store, in the form that it keeps them in and the order of their keys.
//!
//! It must never hold an object in another form than the store's own.

use lamina_api::wire::v1;
use prost::Message;

use super::key::Key;

/// Objects as the store will have them, one behind the other in memory: they come by the hundred thousand.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each key begins and ends; its value follows, up to the next key.
    keys: Vec<(usize, usize)>,
}

impl Batch {
    /// One more.
    pub fn add(&mut self, key: &Key, object: &v1::Object) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(key.bytes());
        self.keys.push((begin, self.bytes.len()));
        // Memory does not run out of room.
        let _ = object.encode(&mut self.bytes);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// A key.
    pub fn key(&self, place: usize) -> &[u8] {
        let (begin, end) = self.keys[place];
        &self.bytes[begin..end]
    }

    /// A key and its value.
    pub(super) fn entry(&self, place: usize) -> (&[u8], &[u8]) {
        let (_, end) = self.keys[place];
        let next = self.keys.get(place + 1).map_or(self.bytes.len(), |(begin, _)| *begin);
        (self.key(place), &self.bytes[end..next])
    }

    /// The places of all keys in the order of keys; of several with one key the first.
    pub(super) fn order(&self) -> Vec<usize> {
        let Some(first) = self.keys.first().map(|_| self.key(0)) else { return Vec::new() };
        // Most have a beginning in common, and differ soon after it.
        let shared = (1..self.len()).fold(first.len(), |shared, place| {
            let same = first[..shared].iter().zip(self.key(place)).take_while(|(a, b)| a == b);
            same.count()
        });
        let head = |place: usize| {
            let mut head = [0; 16];
            let rest = &self.key(place)[shared..];
            let length = rest.len().min(16);
            head[..length].copy_from_slice(&rest[..length]);
            u128::from_be_bytes(head)
        };
        let mut order: Vec<(u128, usize)> = (0..self.len()).map(|place| (head(place), place)).collect();
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| self.key(a.1).cmp(self.key(b.1))).then_with(|| a.1.cmp(&b.1))
        });
        let mut order: Vec<usize> = order.into_iter().map(|(_, place)| place).collect();
        order.dedup_by(|later, first| self.key(*later) == self.key(*first));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_in_the_order_of_its_keys_and_has_each_once() {
        let keys = ["b", "a", "ab", "b", "a common beginning of more than sixteen 2", "", "a\0", "b", "c"];
        let long =
            ["x\0ab", "x\0a", "x\0aaaaaaaaaaaaaaaaaaaaaaaab", "x\0aaaaaaaaaaaaaaaaaaaaaaaaa", "x\0a\0"];
        for keys in [&keys[..], &long, &["one"], &[]] {
            let objects: Vec<(Key, v1::Object)> = keys
                .iter()
                .zip(1..)
                .map(|(key, n)| {
                    (Key::from_bytes(key.as_bytes()), v1::Object { revision: n, ..v1::Object::default() })
                })
                .collect();
            let mut expected: Vec<usize> = (0..keys.len()).collect();
            expected.sort_by_key(|place| keys[*place]);
            expected.dedup_by_key(|place| keys[*place]);
            let mut batch = Batch::default();
            objects.iter().for_each(|(key, object)| batch.add(key, object));
            assert_eq!(batch.order(), expected, "{keys:?}");
            for (place, (key, object)) in objects.iter().enumerate() {
                assert_eq!(batch.entry(place), (key.bytes(), &object.encode_to_vec()[..]));
            }
        }
    }
}
