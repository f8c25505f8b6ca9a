//! Which rows of the store each collection serves is found out before somebody asks, for as long as a server runs: after its start, and after
//! every commit and compaction. Else the first page over new segments would. Where they are few, they are read as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::feed::StoreFeed;
use crate::feed::api::{Feed, FeedError};
use crate::feed::collection::Catalog;
use crate::runtime;

/// How often it looks whether there is something new.
const PERIOD: Duration = Duration::from_secs(1);

/// A thread that fills the match index. It ends when this is dropped, after the segment that it is at.
#[derive(Debug)]
pub struct Warmer {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Warmer {
    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(feed: &StoreFeed) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (feed, stop) = (feed.clone(), Arc::clone(&stopped));
        let thread = std::thread::Builder::new().name("warm".to_owned()).spawn(move || run(&feed, &stop))?;
        Ok(Warmer { stopped, thread })
    }
}

impl Drop for Warmer {
    fn drop(&mut self) {
        // It writes nothing, so the process may end over it.
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }
}

fn run(feed: &StoreFeed, stopped: &AtomicBool) {
    let pool = runtime::background("warm");
    let mut done = None;
    loop {
        // At the start as well: whoever waits for the server's first answers gets all cores for them.
        std::thread::park_timeout(PERIOD);
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        // A panic costs this round.
        let round = || match &pool {
            Ok(pool) => pool.install(|| round(feed, &mut done, stopped)),
            Err(_) => Ok(()),
        };
        match catch_unwind(AssertUnwindSafe(round)) {
            Ok(Ok(())) => {}
            // Who asks for a page meets it as well, and is told.
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "match index not filled"),
            Err(_) => tracing::error!("filling the match index panicked; it is tried again with the next commit"),
        }
    }
}

/// The version of the store and the collections that were gone through.
type Done = Option<(u64, Arc<Catalog>)>;

fn round(feed: &StoreFeed, done: &mut Done, stopped: &AtomicBool) -> Result<(), FeedError> {
    let (version, catalog) = (feed.version()?, feed.catalog());
    if done.as_ref().is_some_and(|(before, served)| *before == version && Arc::ptr_eq(served, &catalog)) {
        return Ok(());
    }
    *done = Some((version, Arc::clone(&catalog)));
    feed.shared().forget(&catalog)?;
    let goes_on = || !stopped.load(Ordering::Relaxed);
    for collection in catalog.iter() {
        if !feed.shared().warm(collection, &goes_on)? {
            break;
        }
    }
    Ok(())
}
