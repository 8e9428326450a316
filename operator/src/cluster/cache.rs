//! A cache of what the operator reads all the time: by namespace and name, kept up to date by a watch.
//!
//! Of each object it holds what was made of it at the door. The store of kube's reflector holds whole objects, each with a second copy of its name,
//! uid and version as its key, and is asked with a key that is copied for it: with 10,000 pods that is most of what they take.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::state::ObjectKey;

type Objects<T> = HashMap<ObjectKey, Arc<T>>;

struct Held<T> {
    objects: RwLock<Objects<T>>,
    filled: watch::Sender<bool>,
}

/// Reads a cache. It may lag behind the cluster.
pub struct Cache<T>(Arc<Held<T>>);

/// Writes one: what a watch says.
pub struct Keeper<T> {
    held: Arc<Held<T>>,
    /// What is listed and shown to nobody yet.
    listed: Objects<T>,
}

/// An empty cache, and who fills it.
pub fn cache<T>() -> (Cache<T>, Keeper<T>) {
    let held = Arc::new(Held { objects: RwLock::default(), filled: watch::Sender::new(false) });
    (Cache(held.clone()), Keeper { held, listed: HashMap::new() })
}

impl<T> Cache<T> {
    /// The object of this name.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All there are.
    pub fn state(&self) -> Vec<Arc<T>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Those of which this is so.
    pub fn state_filter(&self, is: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner).values().filter(|object| is(object)).cloned().collect()
    }

    /// One of which this is so.
    pub fn find(&self, is: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner).values().find(|object| is(object)).cloned()
    }

    /// Looks at each, while nothing changes: `look` must not wait.
    pub fn for_each(&self, mut look: impl FnMut(&ObjectKey, &T)) {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|(key, object)| look(key, object));
    }

    /// Waits until all that there was has been seen.
    pub async fn filled(&self) {
        // It is sent by what this cache holds: it cannot be gone.
        let _ = self.0.filled.subscribe().wait_for(|filled| *filled).await;
    }
}

impl<T> Keeper<T> {
    /// All there are are told anew.
    pub fn begin(&mut self) {
        self.listed = HashMap::new();
    }

    /// One of those.
    pub fn list(&mut self, key: ObjectKey, object: T) {
        self.listed.insert(key, Arc::new(object));
    }

    /// These were all: nothing else is there any more.
    pub fn end(&mut self) {
        *self.held.objects.write().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.listed);
        self.held.filled.send_replace(true);
    }

    /// One came, or changed.
    pub fn put(&mut self, key: ObjectKey, object: T) {
        self.held.objects.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(object));
    }

    /// One is gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.held.objects.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The names of all.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.held.objects.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_shown_when_it_is_whole_and_what_it_lacks_is_gone() {
        let (cache, mut keeper) = cache();
        let key = |name: &str| ObjectKey::new("shop", name);
        let held = || {
            let mut held: Vec<u8> = cache.state().iter().map(|number| **number).collect();
            held.sort_unstable();
            held
        };
        keeper.put(key("a"), 1);
        keeper.begin();
        keeper.list(key("b"), 2);
        keeper.list(key("c"), 3);
        assert_eq!((held(), *cache.0.filled.borrow()), (vec![1], false));
        keeper.end();
        cache.filled().await;
        assert_eq!((held(), cache.get(&key("a")), cache.get(&key("b")).as_deref()), (vec![2, 3], None, Some(&2)));
        keeper.put(key("b"), 4);
        keeper.remove(&key("c"));
        assert_eq!((held(), keeper.keys()), (vec![4], vec![key("b")]));
        // A list that breaks off, and the next one.
        keeper.begin();
        keeper.list(key("d"), 5);
        keeper.begin();
        keeper.end();
        assert!(held().is_empty());
    }
}
