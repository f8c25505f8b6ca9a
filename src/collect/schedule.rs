//! When each source is fetched, inside a server: every interval, not all of them at the same moment, later and later after
//! errors, never before the server wants it, and never twice at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use twox_hash::XxHash3_64;

use super::definition::Definition;
use super::log::{Outcome, Report, State, Trigger};
use super::registry::{Registry, RegistryError, Source};
use super::run::{CollectError, Collector, Progress, Request, Standing};
use crate::model::time::{MICROS_PER_SECOND, Timestamp};
use crate::store::Store;

/// How often sources are looked at: changes by other processes are seen that soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Wait after the first error that may go away by itself; doubled for each further one, up to the interval.
const FIRST_WAIT_S: u64 = 60;
/// Fetches are spread by up to a tenth of their interval, but by no more than this.
const MOST_JITTER_S: u64 = 300;
/// Servers that ask for longer are asked again after this.
const LONGEST_WAIT_S: u64 = 86_400;
/// How long a server that stops waits for the commits of its fetches.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// When a source is to be fetched next; none: not by itself. What lies in the past is due.
pub fn due(source: &Source, state: &State) -> Option<Timestamp> {
    if !source.is_active() {
        return None;
    }
    let interval = source.definition.interval?;
    // A clock that was ahead must not keep a source waiting until it is that late.
    let Some(last) = state.last_attempt.filter(|last| *last <= Timestamp::now()) else { return Some(Timestamp(0)) };
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(MICROS_PER_SECOND);
    let usual = interval.after(last);
    let at = if state.stopped || state.running {
        // Cut short by the end of a process.
        last
    } else if state.failures > 0 && state.transient {
        let wait = FIRST_WAIT_S.saturating_mul(1 << (state.failures - 1).min(20));
        Timestamp(last.0.saturating_add(seconds(wait))).min(usual)
    } else {
        usual
    };
    let spread = ((at.0 - last.0) / 10).clamp(0, seconds(MOST_JITTER_S));
    let jitter = match spread {
        0 => 0,
        spread => {
            let seed = XxHash3_64::oneshot(format!("{} {}", source.definition.id, last.0).as_bytes());
            i64::try_from(seed % spread.unsigned_abs()).unwrap_or(0)
        }
    };
    let latest = last.0.saturating_add(seconds(LONGEST_WAIT_S));
    let asked = state.not_before.map_or(0, |until| until.0.min(latest));
    Some(Timestamp(at.0.saturating_add(jitter).max(asked)))
}

/// Fetches sources when their time comes.
#[derive(Debug)]
pub struct Scheduler {
    collector: Collector,
    shared: Mutex<Shared>,
    /// Something is to be done at once.
    wake: Notify,
    /// Fetches at the same time.
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    /// Whether fetches begin by themselves.
    enabled: bool,
}

#[derive(Debug, Default)]
struct Shared {
    /// Sources that somebody wants fetched now.
    asked: BTreeMap<String, Request>,
    running: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    stop: CancellationToken,
    definition: Definition,
}

/// What is known of a source for whoever watches.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What it is.
    pub source: Source,
    /// How it stands.
    pub state: State,
    /// When it is fetched next, if it is by itself.
    pub due: Option<Timestamp>,
    /// How far the fetch is that this process is at.
    pub running: Option<Standing>,
}

impl Scheduler {
    /// Fetches what is in `registry` into `store`, at most `at_once` sources at a time. With `enabled` false only when asked.
    pub fn new(store: &Store, registry: Arc<Registry>, at_once: usize, enabled: bool) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Half of the cores are for those who are served.
        let decoders = (cores / 2 / at_once.max(1)).max(1);
        Arc::new(Scheduler {
            collector: Collector::new(store, registry, decoders),
            shared: Mutex::default(),
            wake: Notify::new(),
            permits: Arc::new(Semaphore::new(at_once.max(1))),
            stop: CancellationToken::new(),
            enabled,
        })
    }

    /// What does the fetching.
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// The sources.
    pub fn registry(&self) -> &Arc<Registry> {
        self.collector.registry()
    }

    /// Has a source fetched as soon as there is room; false when it is being fetched already. What becomes of it is in its
    /// log.
    pub fn fetch_now(&self, id: &str) -> Result<bool, RegistryError> {
        let source = self.registry().get(id)?;
        let mut shared = self.shared.lock();
        if shared.running.contains_key(&source.definition.id) {
            return Ok(false);
        }
        shared.asked.insert(source.definition.id, Request::new(Trigger::Asked));
        drop(shared);
        self.wake.notify_one();
        Ok(true)
    }

    /// Looks at the definitions at once: somebody changed one.
    pub fn changed(&self) {
        self.wake.notify_one();
    }

    /// How far the fetch of a source is that this process is at.
    pub fn standing(&self, id: &str) -> Option<Standing> {
        self.shared.lock().running.get(id).map(|running| running.progress.standing())
    }

    /// All sources and how they stand. Reads files.
    pub fn watch(&self) -> Result<Vec<Watched>, RegistryError> {
        let watched = self.registry().list()?.into_iter().map(|source| {
            let state = self.collector.state(&source.definition.id);
            let due = due(&source, &state).filter(|_| self.enabled);
            Watched { running: self.standing(&source.definition.id), due, state, source }
        });
        Ok(watched.collect())
    }

    /// Begins no further fetch, and has those that run commit what they have.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Fetches until stopped, and then until what runs has ended. Has to run on a tokio runtime of its own: what it does must not
    /// take the threads that serve.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tasks = tokio::task::JoinSet::new();
        let mut complained = false;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = self.wake.notified() => {}
                _ = ticks.tick() => {}
            }
            while tasks.try_join_next().is_some() {}
            match self.ready() {
                Ok(ready) => {
                    complained = false;
                    for (source, request) in ready {
                        let scheduler = Arc::clone(&self);
                        tasks.spawn(async move { scheduler.fetch(source, request).await });
                    }
                }
                Err(error) if complained => tracing::debug!(%error, "sources cannot be read"),
                Err(error) => {
                    complained = true;
                    tracing::error!(error = %with_cause(&error), "sources cannot be read; none is fetched until they can");
                }
            }
        }
        let ending = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WAIT, ending).await.is_err() {
            tracing::warn!(
                "fetches do not end; what they have committed is kept, and the next start goes on from there"
            );
        }
    }

    /// What is to begin now; noted as running. Fetches of sources that are not to be fetched any more are stopped.
    fn ready(&self) -> Result<Vec<(Source, Request)>, RegistryError> {
        let all = self.registry().list()?;
        let now = Timestamp::now();
        let mut shared = self.shared.lock();
        for (id, running) in &shared.running {
            let same = all.iter().find(|source| source.definition.id == *id);
            let goes_on = same.is_some_and(|source| source.definition == running.definition && !source.paused);
            if !goes_on {
                running.stop.cancel();
            }
        }
        let mut ready = Vec::new();
        for source in all {
            let id = source.definition.id.clone();
            if shared.running.contains_key(&id) {
                continue;
            }
            let asked = shared.asked.remove(&id);
            let is_due = || self.enabled && due(&source, &self.collector.state(&id)).is_some_and(|due| due <= now);
            let request = match asked {
                Some(request) => request,
                None if is_due() => Request::new(Trigger::Schedule),
                None => continue,
            };
            let request = Request { stop: self.stop.child_token(), ..request };
            let running =
                Running { progress: Arc::default(), stop: request.stop.clone(), definition: source.definition.clone() };
            shared.running.insert(id, running);
            ready.push((source, request));
        }
        Ok(ready)
    }

    async fn fetch(&self, source: Source, request: Request) {
        let name = source.definition.name.clone();
        let id = source.definition.id.clone();
        // Whatever happens, a panic as well, it is no longer running afterwards.
        let _gone = Gone { scheduler: self, id: &id };
        let permit = tokio::select! {
            biased;
            () = request.stop.cancelled() => return,
            permit = Arc::clone(&self.permits).acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(_permit) = permit else { return };
        let progress = self.shared.lock().running.get(&id).map(|running| Arc::clone(&running.progress));
        let progress = progress.unwrap_or_default();
        match self.collector.fetch(&source, &request, &progress).await {
            Ok(report) => tell(&name, &report),
            // Another process is at it, and writes its state; a later look sees what came of it.
            Err(CollectError::Busy { .. }) => {
                tracing::debug!(source = name, "another process is fetching this source");
                rest(&request.stop, LOOK_EVERY * 10).await;
            }
            Err(error) => {
                tracing::error!(source = name, error = %with_cause(&error), "this source cannot be fetched");
                // Nothing of this is in the state: it must not be tried again at once.
                rest(&request.stop, Duration::from_secs(FIRST_WAIT_S)).await;
            }
        }
    }
}

/// Waits so long, or until told to stop.
async fn rest(stop: &CancellationToken, time: Duration) {
    // Stopped or not, nothing more is done.
    let _ = tokio::time::timeout(time, stop.cancelled()).await;
}

/// Takes a source off the list of those that are being fetched.
struct Gone<'s> {
    scheduler: &'s Scheduler,
    id: &'s str,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.scheduler.shared.lock().running.remove(self.id);
    }
}

fn tell(name: &str, report: &Report) {
    let Report { objects, new, changed, rejected, seconds, .. } = report;
    match (report.outcome, &report.error) {
        (Outcome::Failed, Some(error)) => {
            tracing::warn!(
                source = name,
                objects,
                new,
                changed,
                rejected,
                seconds,
                error,
                "fetching ended with an error"
            );
        }
        (outcome, _) => {
            let outcome = outcome.as_str();
            tracing::info!(source = name, outcome, objects, new, changed, rejected, seconds, "fetched");
        }
    }
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::collect::{Origin, Span, Unit};

    fn source(interval: Option<Span>) -> Source {
        let mut definition = Definition::new("A", Url::parse("https://a.example/").unwrap());
        definition.interval = interval;
        Source {
            definition,
            origin: Origin::Managed,
            revision: 1,
            paused: false,
            created: None,
            changed: None,
            problem: None,
        }
    }

    /// Seconds from the last attempt to the next one.
    fn wait(source: &Source, state: &State) -> Option<i64> {
        due(source, state).map(|due| (due.0 - state.last_attempt.unwrap().0) / MICROS_PER_SECOND)
    }

    #[test]
    fn sources_come_when_it_is_time() {
        let at = Timestamp::parse("2024-05-01T00:00:00Z").unwrap();
        let hourly = source(Some(Span::new(1, Unit::Hours)));
        assert_eq!(due(&hourly, &State::default()), Some(Timestamp(0)), "a new one at once");
        let tried = State { last_attempt: Some(at), ..State::default() };
        let failed = |failures| State { failures, transient: true, ..tried.clone() };
        let until = |seconds: i64| Some(Timestamp(at.0 + seconds * MICROS_PER_SECOND));
        let cases = [
            (tried.clone(), 3_600, 3_900),
            (failed(1), 60, 66),
            (failed(2), 120, 132),
            (failed(3), 240, 264),
            (failed(40), 3_600, 3_900),
            (State { transient: false, ..failed(1) }, 3_600, 3_900),
            (State { stopped: true, ..tried.clone() }, 0, 0),
            (State { running: true, ..tried.clone() }, 0, 0),
            (State { not_before: until(7_200), ..failed(1) }, 7_200, 7_200),
            (State { not_before: until(1_000_000), ..failed(1) }, 86_400, 86_400),
            (State { not_before: until(5), ..tried.clone() }, 3_600, 3_900),
        ];
        for (state, least, most) in cases {
            let found = wait(&hourly, &state).unwrap();
            assert!((least..=most).contains(&found), "{found} s for {state:?}");
        }
        assert_eq!(due(&source(None), &tried), None);
        let paused = Source { paused: true, ..hourly.clone() };
        assert_eq!(due(&paused, &tried), None);
        let mut off = hourly.clone();
        off.definition.enabled = false;
        assert_eq!(due(&off, &tried), None);
        assert_eq!(due(&Source { problem: Some("x".to_owned()), ..hourly }, &tried), None);
    }

    #[test]
    fn sources_of_one_interval_are_spread() {
        let at = Timestamp::parse("2024-05-01T00:00:00Z").unwrap();
        let tried = State { last_attempt: Some(at), ..State::default() };
        let mut waits: Vec<i64> =
            (0..20).filter_map(|_| wait(&source(Some(Span::new(1, Unit::Days))), &tried)).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 10 && waits.iter().all(|wait| (86_400..=86_700).contains(wait)), "{waits:?}");
    }
}
