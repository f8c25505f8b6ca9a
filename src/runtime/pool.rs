//! CPU work behind an async call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tokio::sync::oneshot;

/// A fixed number of threads that compute. Clones share them.
#[derive(Clone)]
pub struct CpuPool {
    threads: Arc<rayon::ThreadPool>,
}

/// Why a piece of work gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// It panicked; the panic was logged with its place.
    #[error("the work panicked: {0}")]
    Panicked(String),
    /// The pool is gone.
    #[error("the work was dropped")]
    Dropped,
}

impl std::fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuPool({} threads)", self.threads())
    }
}

impl CpuPool {
    /// A pool of `threads` threads, or one per core when zero.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("cpu-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(CpuPool { threads: Arc::new(pool) })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `work` on the pool. It is skipped when the caller has left before it starts; a panic becomes an error.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unfinished> {
        let (sender, receiver) = oneshot::channel();
        self.threads.spawn(move || {
            if sender.is_closed() {
                return;
            }
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                Unfinished::Panicked(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
            });
            // The caller may have left meanwhile; then nobody wants the result.
            let _ = sender.send(result);
        });
        receiver.await.unwrap_or(Err(Unfinished::Dropped))
    }

    /// Runs `work` on the pool some time; nobody waits for it. A panic in it ends with it.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.threads.spawn(move || {
            // It was logged with its place.
            let _ = catch_unwind(AssertUnwindSafe(work));
        });
    }

    /// Runs `work` on the pool and blocks until it is done: for threads that may wait.
    pub fn run_blocking<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.threads.install(work)
    }
}

/// A pool of one thread for what is done in the background: it takes one core, however many there are, and that only where others leave it.
pub(crate) fn background(name: &'static str) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| name.to_owned());
    threads.start_handler(|_| give_way()).build()
}

/// Has the calling thread give way to others. Not to the last: it may hold a lock that they wait for.
fn give_way() {
    // Of 100. Linux has it as a niceness of 9.
    if let Ok(low) = ThreadPriorityValue::try_from(25u8)
        && let Err(error) = set_current_thread_priority(ThreadPriority::Crossplatform(low))
    {
        tracing::debug!(%error, "work in the background has the priority of any other");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn background_work_gives_way() {
        let niceness = || -> i32 {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 19; the name, which may hold blanks, ends with the last bracket.
            stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
        };
        let own = niceness();
        assert!(background("test").unwrap().install(niceness) > own);
        assert_eq!(niceness(), own);
    }

    #[tokio::test]
    async fn panics_become_errors_and_the_pool_lives_on() {
        let pool = CpuPool::new(1).unwrap();
        let broken: Result<(), _> = pool.run(|| panic!("on purpose")).await;
        assert!(matches!(broken, Err(Unfinished::Panicked(text)) if text == "on purpose"));
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_of_a_caller_who_left_is_skipped() {
        let pool = CpuPool::new(1).unwrap();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let first = pool.run(move || held.recv().is_ok());
        let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        let mut first = Box::pin(first);
        let mut second = Box::pin(pool.run(move || flag.store(true, std::sync::atomic::Ordering::SeqCst)));
        // Polling once queues the work.
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        hold.send(()).unwrap();
        assert!(first.await.unwrap());
        pool.run(|| ()).await.unwrap();
        assert!(!ran.load(std::sync::atomic::Ordering::SeqCst));
    }
}
