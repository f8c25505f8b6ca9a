//! Compaction in the background, for as long as a server runs: what was written in many commits stays as quick to read as what was
//! written in one, and nobody has to think of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::{CompactOptions, CompactReport, Extent, Store};
use crate::runtime;

/// How often it looks whether there are too many segments.
const PERIOD: Duration = Duration::from_secs(60);
/// How often it looks whether superseded rows can go: that means looking up many records.
const THOROUGH_PERIOD: Duration = Duration::from_secs(3_600);

/// A thread that compacts a store where that is needed ([`Extent::Needed`]). It ends when this is dropped, after the segment it is
/// writing; what it wrote and did not publish goes with the next start.
#[derive(Debug)]
pub struct Compactor {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    /// Starts it. Stores on object stores have no locks by which two compactions keep apart: theirs is left to `taxiway compact`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(store: &Store) -> std::io::Result<Self> {
        Self::every(store, PERIOD)
    }

    pub(super) fn every(store: &Store, period: Duration) -> std::io::Result<Self> {
        if store.folder().is_none() {
            return Ok(Compactor { stop: None, thread: None });
        }
        let (stop, stopped) = channel();
        let store = store.clone();
        let thread = std::thread::Builder::new().name("compaction".to_owned());
        let thread = thread.spawn(move || run(&store, period, &stopped))?;
        Ok(Compactor { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Half a compaction is not worth waiting for: the process may end over it.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, period: Duration, stopped: &Receiver<()>) {
    let mut looked: Option<Instant> = None;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(period) {
        let thorough = looked.is_none_or(|at| at.elapsed() >= THOROUGH_PERIOD);
        // A panic costs this round.
        match catch_unwind(AssertUnwindSafe(|| round(store, thorough))) {
            Ok(Ok(done)) => {
                if thorough {
                    looked = Some(Instant::now());
                }
                if let Some((report, seconds)) = done.filter(|(report, _)| report.rewritten + report.dropped > 0) {
                    let CompactReport { segments_before, segments_after, dropped, rewritten } = report;
                    tracing::info!(segments_before, segments_after, rewritten, dropped, seconds, "store compacted");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "compaction failed; it is tried again later");
            }
            Err(_) => tracing::error!("compaction panicked; it is tried again later"),
        }
    }
}

fn round(store: &Store, thorough: bool) -> Result<Option<(CompactReport, f64)>, StoreError> {
    if !store.needs_compaction(thorough)? {
        return Ok(None);
    }
    let began = Instant::now();
    // A handle of its own, so that its files are not synced by somebody else's commit, nor waited for by it.
    let own = Store::open(store.options().clone())?;
    let options = CompactOptions { extent: Extent::Needed, ..CompactOptions::default() };
    let report = match runtime::background("compaction") {
        Ok(pool) => pool.install(|| own.compact(&options)),
        Err(_) => own.compact(&options),
    }?;
    Ok(Some((report, began.elapsed().as_secs_f64())))
}
