//! Texts that are much alike, each kept in few bytes: LZ4 with a dictionary that is made of the first of them.

use std::sync::{PoisonError, RwLock};

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A dictionary is read through for each text, so it is not to be long.
const MOST: usize = 4096;

/// What has the dictionary.
#[derive(Debug, Default)]
pub struct Packer(RwLock<Vec<u8>>);

/// A text as a [`Packer`] packed it, which alone can open it.
#[derive(Debug)]
pub struct Packed(Box<[u8]>);

impl Packer {
    /// One that has seen nothing yet.
    pub const fn new() -> Self {
        Self(RwLock::new(Vec::new()))
    }

    /// Packs what a text is made of. It must be such that no JSON fails: structs, strings, and maps of them.
    pub fn pack_json(&self, value: &impl Serialize) -> Packed {
        self.pack(&serde_json::to_string(value).unwrap_or_default())
    }

    /// What was packed as JSON; `None` if another packed it.
    pub fn open_json<T: DeserializeOwned>(&self, packed: &Packed) -> Option<T> {
        serde_json::from_str(&self.open(packed)?).ok()
    }

    /// Packs a text. One that is like none before is taken into the dictionary.
    fn pack(&self, text: &str) -> Packed {
        let packed = {
            let dictionary = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let packed = compress_prepend_size_with_dict(text.as_bytes(), &dictionary);
            let is_new = packed.len() > text.len() / 2 && dictionary.len() + text.len() <= MOST;
            (!is_new).then_some(packed)
        };
        Packed(packed.unwrap_or_else(|| self.learn(text)).into_boxed_slice())
    }

    /// What was packed before counts from the end of the dictionary: it can still be opened if this grows at its beginning.
    fn learn(&self, text: &str) -> Vec<u8> {
        let mut dictionary = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Others may have learnt meanwhile.
        if dictionary.len() + text.len() <= MOST {
            dictionary.splice(..0, text.bytes());
        }
        compress_prepend_size_with_dict(text.as_bytes(), &dictionary)
    }

    /// The text as it was; `None` if another packed it.
    fn open(&self, packed: &Packed) -> Option<String> {
        let dictionary = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let text = decompress_size_prepended_with_dict(&packed.0, &dictionary).ok()?;
        String::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(n: usize) -> String {
        format!(
            r#"{{"metadata":{{"name":"mail-{n:05}","labels":{{"app.kubernetes.io/managed-by":"us"}}}},"n":{n}}}"#
        )
    }

    #[test]
    fn texts_that_are_alike_take_few_bytes() {
        let packer = Packer::new();
        let all: Vec<Packed> = (0..100).map(|n| packer.pack(&text(n))).collect();
        assert!(all.iter().all(|packed| packed.0.len() * 2 < text(0).len()), "{:?}", all.last());
        for (n, packed) in all.iter().enumerate() {
            assert_eq!(packer.open(packed), Some(text(n)));
        }
    }

    #[test]
    fn the_dictionary_is_bounded_whatever_it_is_given() {
        let packer = Packer::new();
        for n in 0..1000_u64 {
            let noise: Vec<_> = (1..100).map(|m| format!("{:x}", (n * 7919 + m).wrapping_pow(11))).collect();
            let noise = noise.concat();
            assert_eq!(packer.open(&packer.pack(&noise)), Some(noise));
        }
        assert!(packer.0.read().unwrap().len() <= MOST);
    }

    proptest! {
        #[test]
        fn every_text_comes_back_whatever_was_packed_since(texts in prop::collection::vec(".{0,600}", 0..30)) {
            let packer = Packer::new();
            let all: Vec<Packed> = texts.iter().map(|text| packer.pack(text)).collect();
            for (text, packed) in texts.iter().zip(&all) {
                prop_assert_eq!(packer.open(packed), Some(text.clone()));
            }
        }
    }
}
