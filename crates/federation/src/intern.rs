//! Texts that many objects share, kept once: the names of clusters, and what is said of thousands of objects in the same words.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// How many texts there are before those that nobody holds any more are looked for.
const FEW: usize = 1_024;

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Texts {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

/// The one copy of a text.
pub(crate) fn intern(text: &str) -> Arc<str> {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.known.get(text) {
        return known.clone();
    }
    if texts.known.len() >= texts.sweep_at.max(FEW) {
        texts.known.retain(|text| Arc::strong_count(text) > 1);
        texts.sweep_at = texts.known.len() * 2;
    }
    let text: Arc<str> = text.into();
    texts.known.insert(text.clone());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_kept_once_and_forgotten_texts_go() {
        let first = intern("the name of a cluster");
        for number in 0..5 * FEW {
            intern(&format!("text {number}"));
        }
        assert!(Arc::ptr_eq(&first, &intern("the name of a cluster")));
        assert!(TEXTS.lock().unwrap().known.len() < 4 * FEW);
    }
}
