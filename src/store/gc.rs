//! Removing what no reader can reach any more: old manifests after their time, then files that no manifest names.

use std::collections::HashSet;

use super::error::StoreError;
use super::manifest::Manifest;
use super::snapshot::Snapshot;
use super::{Store, segment};

/// Manifests beyond this number go even when they are young.
const MOST_MANIFESTS: usize = 1_000;

/// Runs after a commit, and at start, while the caller holds the write lock: removes manifests that were replaced longer ago than
/// snapshots are kept, and the files that only they named. Files of an unfinished commit are named by none and go as well.
pub(crate) fn collect(store: &Store, newest: &Snapshot) -> Result<(), StoreError> {
    let storage = &**store.storage();
    let versions = Manifest::versions(storage)?;
    let surplus = versions.len().saturating_sub(MOST_MANIFESTS);
    let mut removed = false;
    let mut kept = Vec::new();
    for (position, (version, _)) in versions.iter().copied().enumerate() {
        // A version counts from when the next one took its place: until then every walk began on it.
        let replaced_for_s = versions.get(position + 1).map(|(_, age_s)| *age_s);
        let expired = replaced_for_s.is_some_and(|age_s| age_s >= store.options().snapshots_kept_s);
        if version < newest.version() && (position < surplus || expired) {
            Manifest::delete(storage, version)?;
            removed = true;
        } else {
            kept.push(version);
        }
    }
    if removed { remove_orphans(store, newest, &kept) } else { Ok(()) }
}

/// Removes files that none of the kept versions names.
pub(crate) fn remove_orphans(store: &Store, newest: &Snapshot, kept: &[u64]) -> Result<(), StoreError> {
    let storage = &**store.storage();
    let mut named: HashSet<String> = HashSet::new();
    let mut note = |manifest: &Manifest| {
        for meta in manifest.all_segments() {
            named.insert(segment::data_path(&meta.id));
            named.insert(segment::index_path(&meta.id));
            if let Some(superseded) = &meta.superseded {
                named.insert(format!("superseded/{}", superseded.file));
            }
        }
    };
    note(newest.manifest());
    for version in kept {
        if let Some(manifest) = Manifest::load(storage, *version)? {
            note(&manifest);
        }
    }
    // Without a process lock another writer may be at work: leave it a day.
    let youngest_s = if storage.lock_path().is_some() { 0 } else { 86_400 };
    for folder in ["segments", "superseded"] {
        for listed in storage.list(folder)? {
            let path = format!("{folder}/{}", listed.name);
            if !named.contains(&path) && listed.age_s >= youngest_s {
                tracing::debug!(path, "removing an orphan");
                storage.delete(&path)?;
            }
        }
    }
    for listed in storage.list("manifest")? {
        if listed.name.ends_with(".tmp") && listed.age_s >= youngest_s.max(60) {
            storage.delete(&format!("manifest/{}", listed.name))?;
        }
    }
    Ok(())
}
