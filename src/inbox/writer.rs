//! The one thread that writes what is posted and deletes what is to go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::decode::Pending;
use super::resolve::{Absent, Deletions, Kept, resolve};
use super::status::{Detail, Status, StatusLog};
use super::{Deleted, Deletion, InboxError, InboxOptions};
use crate::model::time::Timestamp;
use crate::store::{NewRows, Store, StoreError, bytes_of, joined};

/// How often a commit is tried that another writer got ahead of; only a store without a lock has such.
const ATTEMPTS: usize = 5;

/// What waits for the writer.
#[derive(Debug)]
pub(super) enum Job {
    Post(Taken),
    Delete(Removal),
}

/// A post whose body was read.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) rows: Vec<NewRows>,
    pub(super) status: Pending,
    pub(super) answer: oneshot::Sender<Result<Arc<Status>, InboxError>>,
    pub(super) _room: OwnedSemaphorePermit,
}

impl Taken {
    fn size(&self) -> (usize, usize) {
        let rows = self.rows.iter().map(|rows| rows.keys.len()).sum();
        (rows, self.rows.iter().map(|rows| bytes_of(&rows.batch)).sum())
    }
}

/// A deletion.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) deletion: Deletion,
    pub(super) answer: oneshot::Sender<Result<Deleted, InboxError>>,
}

/// Starts the thread; it ends when nobody can send jobs any more.
pub(super) fn start(
    store: Store,
    options: InboxOptions,
    log: StatusLog,
    jobs: Receiver<Job>,
) -> Result<(), std::io::Error> {
    let writer = InboxWriter { store, options, log };
    std::thread::Builder::new().name("inbox".to_owned()).spawn(move || writer.run(&jobs)).map(drop)
}

struct InboxWriter {
    store: Store,
    options: InboxOptions,
    log: StatusLog,
}

impl InboxWriter {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| jobs.recv().ok()) {
            // A panic costs those who wait for this commit their answer, and nobody else.
            let done = catch_unwind(AssertUnwindSafe(|| match job {
                Job::Post(first) => {
                    let (posts, after) = self.gather(first, jobs);
                    self.posts(posts);
                    after
                }
                Job::Delete(first) => {
                    let mut removals = vec![first];
                    let after = loop {
                        match jobs.try_recv() {
                            Ok(Job::Delete(removal)) => removals.push(removal),
                            Ok(other) => break Some(other),
                            Err(_) => break None,
                        }
                    };
                    self.removals(removals);
                    after
                }
            }));
            next = done.unwrap_or_else(|_| {
                tracing::error!("the writer of inboxes panicked; it goes on with the next post");
                None
            });
            self.merge();
        }
    }

    /// Keeps the segments of small commits few. Those who posted have their answers by now.
    fn merge(&self) {
        match catch_unwind(AssertUnwindSafe(|| self.store.merge_tail())) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the newest segments cannot be merged; the next commit tries again");
            }
            Err(_) => tracing::error!("merging the newest segments panicked; the next commit tries again"),
        }
    }

    /// The posts that wait behind the first one, as many as fit one commit, and what comes after them.
    fn gather(&self, first: Taken, jobs: &Receiver<Job>) -> (Vec<Taken>, Option<Job>) {
        let (mut rows, mut bytes) = first.size();
        let mut posts = vec![first];
        loop {
            let post = match jobs.try_recv() {
                Ok(Job::Post(post)) => post,
                Ok(other) => return (posts, Some(other)),
                Err(_) => return (posts, None),
            };
            let more = post.size();
            if rows + more.0 > self.options.commit_rows || bytes + more.1 > self.options.commit_bytes {
                return (posts, Some(Job::Post(post)));
            }
            rows += more.0;
            bytes += more.1;
            posts.push(post);
        }
    }

    /// Writes posts together, then their statuses, then answers.
    fn posts(&mut self, posts: Vec<Taken>) {
        let (mut rows, mut statuses, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for Taken { rows: own, status, answer, _room } in posts {
            rows.extend(own);
            statuses.push(status);
            answers.push((answer, _room));
        }
        let outcome = self.write(rows, statuses);
        for (place, (answer, _room)) in answers.into_iter().enumerate() {
            let told = match &outcome {
                Ok(statuses) => {
                    statuses.get(place).cloned().ok_or(InboxError::Internal { what: "find the status of a post" })
                }
                Err(error) => Err(error.clone()),
            };
            // Whoever has left finds the objects there when they post them again.
            let _ = answer.send(told);
        }
    }

    fn write(&mut self, rows: Vec<NewRows>, pending: Vec<Pending>) -> Result<Vec<Arc<Status>>, InboxError> {
        let versions = if rows.is_empty() {
            Vec::new()
        } else {
            let rows = joined(&rows)?;
            attempted(|| self.commit(&rows))?
        };
        drop(rows);
        let mut versions = versions.into_iter();
        let statuses = pending.into_iter().map(|Pending { mut status, taken }| {
            status.successes = taken
                .into_iter()
                .zip(versions.by_ref())
                .map(|((id, made), added)| Detail { id, version: made.unwrap_or(added), message: None })
                .collect();
            Arc::new(status)
        });
        let statuses: Vec<Arc<Status>> = statuses.collect();
        self.log.append(statuses.iter().map(|status| &**status), self.store.now())?;
        Ok(statuses)
    }

    /// Writes what is new of the rows; gives for each the date that it is in the collection since, or its version where it was
    /// there before.
    fn commit(&self, rows: &NewRows) -> Result<Vec<Timestamp>, StoreError> {
        let mut writer = self.store.writer_within(self.options.lock_wait)?;
        let resolved = resolve(writer.snapshot(), rows, self.store.now())?;
        let mut added = Vec::new();
        let snapshot_clock = writer.snapshot().clock();
        if !resolved.written.is_empty() {
            for (segment, row) in &resolved.superseded {
                writer.supersede(*segment, *row);
            }
            writer.append(picked(rows, &resolved.written)?, &resolved.stale)?;
            let snapshot = writer.publish()?;
            // All rows of a commit are in the last segment, in their order.
            if let Some(view) = snapshot.segments().last() {
                added.reserve(resolved.written.len());
                for row in 0..resolved.written.len() as u32 {
                    added.push(view.segment.added(row)?);
                }
            }
        }
        let kept = resolved.kept.into_iter().map(|kept| match kept {
            Kept::Before(version) => version,
            Kept::Now(place) => added.get(place as usize).copied().unwrap_or(snapshot_clock),
        });
        Ok(kept.collect())
    }

    fn removals(&self, removals: Vec<Removal>) {
        let (deletions, answers): (Vec<_>, Vec<_>) =
            removals.into_iter().map(|removal| (removal.deletion, removal.answer)).unzip();
        let outcome = attempted(|| self.delete(&deletions));
        for (place, answer) in answers.into_iter().enumerate() {
            let told = match &outcome {
                Ok(all) => all.get(place).cloned().unwrap_or(Err(InboxError::Internal { what: "find a deletion" })),
                Err(error) => Err(error.clone()),
            };
            let _ = answer.send(told);
        }
    }

    fn delete(&self, deletions: &[Deletion]) -> Result<Vec<Result<Deleted, InboxError>>, StoreError> {
        let mut writer = self.store.writer_within(self.options.lock_wait)?;
        let snapshot = Arc::clone(writer.snapshot());
        let mut chosen = Deletions::default();
        let mut answers = Vec::with_capacity(deletions.len());
        for Deletion { collection, object, versions, spec_versions, .. } in deletions {
            let id = || object.clone();
            answers.push(match chosen.choose(&snapshot, collection, object, versions, spec_versions)? {
                Ok(gone) => Ok(Deleted { versions: gone.deleted.len() as u64 }),
                Err(Absent::Object) => Err(InboxError::UnknownObject { id: id() }),
                Err(Absent::Version) => Err(InboxError::UnknownVersion { id: id() }),
            });
        }
        for (segment, row) in chosen.gone() {
            writer.delete(*segment, *row);
        }
        for (segment, row) in chosen.revived() {
            writer.revive(segment, row);
        }
        writer.publish()?;
        for (deletion, answer) in deletions.iter().zip(&answers) {
            if let Ok(Deleted { versions }) = answer {
                let user = deletion.user.as_deref().unwrap_or("-");
                tracing::info!(user, collection = deletion.collection, object = deletion.object, versions, "deleted");
            }
        }
        Ok(answers)
    }
}

/// Does what another writer may get ahead of, a few times.
fn attempted<T>(mut attempt: impl FnMut() -> Result<T, StoreError>) -> Result<T, InboxError> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(StoreError::Conflict { .. }) => {}
            other => return Ok(other?),
        }
    }
    Ok(attempt()?)
}

/// Some of the rows, in that order.
pub(super) fn picked(rows: &NewRows, wanted: &[u32]) -> Result<NewRows, StoreError> {
    if wanted.len() == rows.keys.len() && wanted.is_sorted() {
        return Ok(rows.clone());
    }
    let of = |hashes: &[u64]| wanted.iter().filter_map(|row| hashes.get(*row as usize).copied()).collect();
    Ok(NewRows {
        batch: take_record_batch(&rows.batch, &UInt32Array::from(wanted.to_vec()))?,
        keys: of(&rows.keys),
        digests: of(&rows.digests),
    })
}
