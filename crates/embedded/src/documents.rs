//! Documents derived from the catalogue, made when first asked for and kept until it changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// One document with the hash of its content.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    pub(crate) hash: String,
}

/// The documents of one generation of the catalogue.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    kept: Mutex<(u64, HashMap<String, Arc<Document>>)>,
}

impl Documents {
    /// The document called `name`, made by `make` if this generation has none yet.
    pub(crate) fn get(&self, generation: u64, name: &str, make: impl FnOnce() -> Vec<u8>) -> Arc<Document> {
        if let Some(found) = self.find(generation, name) {
            return found;
        }
        // Made outside the lock: two callers at once make it twice, which is harmless.
        let document = Arc::new(Document::new(make()));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 < generation {
            *kept = (generation, HashMap::new());
        }
        if kept.0 == generation {
            kept.1.insert(name.to_owned(), document.clone());
        }
        document
    }

    fn find(&self, generation: u64, name: &str) -> Option<Arc<Document>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 == generation { kept.1.get(name).cloned() } else { None }
    }
}

impl Document {
    fn new(body: Vec<u8>) -> Self {
        use sha2::Digest;
        let hash = sha2::Sha512::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { body: body.into(), hash }
    }
}
