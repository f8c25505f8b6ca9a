//! CPU work behind an async call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;

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
