//! Pieces of something long, worked on by all threads, their results in order.
//!
//! One piece may always be in work or waiting; further ones are worked on ahead only while permits are left. So whoever does not take
//! results holds one of them, a lone fast taker has every core, and what is dropped is cancelled.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime::{CpuPool, Unfinished};

type Work<P, T, E> = dyn Fn(P) -> Result<T, E> + Send + Sync;
type Known<P, T> = dyn Fn(&P) -> Option<T> + Send + Sync;
type Pending<T, E> = BoxFuture<'static, Result<T, E>>;

/// Work on pieces `P` that gives results `T`, in the order of the pieces.
pub struct Ordered<P, T, E> {
    work: Arc<Work<P, T, E>>,
    known: Option<Box<Known<P, T>>>,
    pool: CpuPool,
    ahead: Arc<Semaphore>,
    working: VecDeque<(Pending<T, E>, Option<OwnedSemaphorePermit>)>,
}

impl<P, T, E> fmt::Debug for Ordered<P, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ordered({} in work)", self.working.len())
    }
}

impl<P, T, E> Ordered<P, T, E>
where
    P: Send + 'static,
    T: Send + 'static,
    E: From<Unfinished> + Send + 'static,
{
    /// Does `work` on the pool; the permits of `ahead` bound what is done before it is wanted.
    pub fn new(pool: CpuPool, ahead: Arc<Semaphore>, work: impl Fn(P) -> Result<T, E> + Send + Sync + 'static) -> Self {
        Ordered { work: Arc::new(work), known: None, pool, ahead, working: VecDeque::new() }
    }

    /// Leaves out the work on pieces of which `known` has the result already.
    pub fn with_known(mut self, known: impl Fn(&P) -> Option<T> + Send + Sync + 'static) -> Self {
        self.known = Some(Box::new(known));
        self
    }

    /// Keeps one piece in work, and as many ahead as cores and permits allow. Needs a tokio runtime.
    pub fn start(&mut self, pieces: &mut impl Iterator<Item = P>) {
        while self.working.len() <= self.pool.threads() {
            let permit = if self.working.is_empty() {
                None
            } else {
                match Arc::clone(&self.ahead).try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => return,
                }
            };
            let Some(piece) = pieces.next() else { return };
            if let Some(result) = self.known.as_ref().and_then(|known| known(&piece)) {
                self.working.push_back((Box::pin(async { Ok(result) }), permit));
                continue;
            }
            let (work, pool) = (Arc::clone(&self.work), self.pool.clone());
            // A spawned task starts at once; a bare future would wait until it is polled.
            let task = tokio::spawn(async move { pool.run(move || work(piece)).await? });
            self.working.push_back((Box::pin(AbortOnDrop(task).result()), permit));
        }
    }

    /// The result of the next piece; `None` when all are done. Begins work on further ones.
    pub async fn next(&mut self, pieces: &mut impl Iterator<Item = P>) -> Option<Result<T, E>> {
        self.start(pieces);
        let (pending, _permit) = self.working.pop_front()?;
        Some(pending.await)
    }

    /// Cancels what is in work.
    pub fn stop(&mut self) {
        self.working.clear();
    }
}

/// A task that ends with its owner, so that a client who leaves cancels the work.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T, E: From<Unfinished>> AbortOnDrop<Result<T, E>> {
    async fn result(mut self) -> Result<T, E> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(_) => Err(Unfinished::Dropped.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_in_order_and_work_ahead_is_bounded() {
        let pool = CpuPool::new(3).unwrap();
        for permits in [0, 1, 64] {
            let ahead = Arc::new(Semaphore::new(permits));
            let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = Arc::clone(&begun);
            let mut ordered = Ordered::new(pool.clone(), Arc::clone(&ahead), move |piece: usize| {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                // The first ones take longest.
                std::thread::sleep(std::time::Duration::from_micros(50 - piece as u64 / 2));
                if piece == 90 { Err(Unfinished::Dropped) } else { Ok(piece) }
            });
            let mut pieces = 0..100;
            for expected in 0..90 {
                assert_eq!(ordered.next(&mut pieces).await.unwrap().unwrap(), expected);
                let ahead_of_us = begun.load(std::sync::atomic::Ordering::SeqCst) - expected - 1;
                assert!(ahead_of_us <= permits.min(3), "{ahead_of_us} with {permits} permits");
            }
            assert!(ordered.next(&mut pieces).await.unwrap().is_err());
            ordered.stop();
            drop(ordered);
            tokio::task::yield_now().await;
            assert_eq!(ahead.available_permits(), permits);
        }
    }

    #[tokio::test]
    async fn what_is_known_is_not_worked_on() {
        let ahead = Arc::new(Semaphore::new(2));
        let work = |piece: usize| if piece.is_multiple_of(3) { Err(Unfinished::Dropped) } else { Ok(piece) };
        let known = |piece: &usize| piece.is_multiple_of(3).then_some(piece * 10);
        let mut ordered = Ordered::new(CpuPool::new(2).unwrap(), ahead, work).with_known(known);
        let mut pieces = 0..8;
        let mut found = Vec::new();
        while let Some(result) = ordered.next(&mut pieces).await {
            found.push(result.unwrap());
        }
        assert_eq!(found, [0, 1, 2, 30, 4, 5, 60, 7]);
    }

    #[tokio::test]
    async fn nothing_gives_nothing() {
        let ahead = Arc::new(Semaphore::new(1));
        let mut ordered = Ordered::<usize, usize, Unfinished>::new(CpuPool::new(1).unwrap(), ahead, Ok);
        assert!(ordered.next(&mut std::iter::empty()).await.is_none());
    }
}
