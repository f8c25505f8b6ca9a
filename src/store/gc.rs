//! Removing what no reader can reach any more: old manifests after their time, then files that no manifest names.
//!
//! A version is kept for the configured time after it was replaced. Where many come in short order, of each few seconds only the last is
//! kept beyond the first moments, and walks that began on another go on in that one; else a store that is written to a hundred
//! times a second would hold hundreds of thousands of files. Versions from before a deletion are out of reach, and go as early.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::manifest::Manifest;
use super::snapshot::Snapshot;
use super::{Store, commit, segment};

/// Manifests beyond this number go even when they are young.
const MOST_MANIFESTS: usize = 2_000;
/// Seconds that every version stays after it was replaced: readers that just learned of it open its files.
pub(super) const GRACE_S: u64 = 10;
/// Of the versions written within so many seconds, the last one is kept.
const SPACING_S: u64 = 5;
/// How often a process looks for what can go.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it looks for files that no version ever named.
const ORPHANS_PERIOD: Duration = Duration::from_secs(3_600);

/// When this process last looked.
#[derive(Debug)]
pub(super) struct Looked {
    versions: Option<Instant>,
    orphans: Instant,
}

impl Default for Looked {
    fn default() -> Self {
        Looked { versions: None, orphans: Instant::now() }
    }
}

/// Runs after a commit while the caller holds the write lock, and does something about once a second: removes the manifests that can go
/// and the files that only they named.
pub(crate) fn collect(store: &Store, newest: &Snapshot) -> Result<(), StoreError> {
    let kept_s = store.options().snapshots_kept_s;
    let orphans_due = {
        let mut looked = store.looked().lock();
        if kept_s > 0 && looked.versions.is_some_and(|at| at.elapsed() < PERIOD) {
            return Ok(());
        }
        looked.versions = Some(Instant::now());
        let due = looked.orphans.elapsed() >= ORPHANS_PERIOD;
        if due {
            looked.orphans = Instant::now();
        }
        due
    };
    let storage = &**store.storage();
    let listed = Manifest::listed(storage)?;
    let surplus = listed.len().saturating_sub(MOST_MANIFESTS);
    // Without a process lock, that the next number is free must mean that there is no newer version.
    let may_thin = storage.lock_path().is_some();
    let (mut kept, mut gone) = (BTreeSet::new(), Vec::new());
    for (position, (version, file)) in listed.iter().enumerate() {
        // A version counts from when the next one took its place: until then every walk began on it.
        let goes = listed.get(position + 1).is_some_and(|(_, next)| {
            let thinned = may_thin && next.written_s / SPACING_S == file.written_s / SPACING_S;
            let out_of_reach = *version < newest.manifest().last_deletion;
            next.age_s >= kept_s || (next.age_s >= GRACE_S && (thinned || out_of_reach)) || position < surplus
        });
        if goes && *version < newest.version() {
            gone.push(*version);
        } else {
            kept.insert(*version);
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    if orphans_due {
        gone.iter().try_for_each(|version| Manifest::delete(storage, *version))?;
        return remove_orphans(store, newest, &kept.into_iter().collect::<Vec<_>>());
    }
    // The versions that name a file are neighbours: what none of the kept ones next to those that go names, none names.
    let mut neighbours = BTreeSet::new();
    let mut files = HashSet::new();
    for version in &gone {
        neighbours.extend(kept.range(..version).next_back());
        neighbours.extend(kept.range(version..).next());
        // One that cannot be read leaves orphans.
        if let Ok(Some(manifest)) = Manifest::load(storage, *version) {
            name_files(&manifest, &mut files);
        }
    }
    let mut needed = HashSet::new();
    name_files(newest.manifest(), &mut needed);
    for version in neighbours {
        if let Some(manifest) = Manifest::load(storage, version)? {
            name_files(&manifest, &mut needed);
        }
    }
    gone.iter().try_for_each(|version| Manifest::delete(storage, *version))?;
    files.difference(&needed).try_for_each(|path| storage.delete(path))
}

/// Adds the files that a version needs.
fn name_files(manifest: &Manifest, named: &mut HashSet<String>) {
    for meta in manifest.all_segments() {
        named.insert(segment::data_path(&meta.id));
        named.insert(segment::index_path(&meta.id));
        for rows in [&meta.superseded, &meta.deleted].into_iter().flatten() {
            named.insert(format!("superseded/{}", rows.file));
        }
    }
}

/// Removes files that none of the kept versions names, as unfinished commits leave them.
pub(crate) fn remove_orphans(store: &Store, newest: &Snapshot, kept: &[u64]) -> Result<(), StoreError> {
    let storage = &**store.storage();
    let mut named: HashSet<String> = HashSet::new();
    name_files(newest.manifest(), &mut named);
    for version in kept {
        if let Some(manifest) = Manifest::load(storage, *version)? {
            name_files(&manifest, &mut named);
        }
    }
    // A compaction writes before any version names what it wrote, and without a process lock another writer may be at work: leave
    // them a day.
    let compaction = commit::try_lock_compaction(store)?;
    let youngest_s = if compaction.is_some() && storage.lock_path().is_some() { 0 } else { 86_400 };
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
