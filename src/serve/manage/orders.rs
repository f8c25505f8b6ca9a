//! Orders: what was to be done, and what became of it. One file each, so that they outlive the process, whatever ends it.
//!
//! What only touches our own files is done before it is answered, and its order is written done. What asks other people's
//! servers is written as pending first, and found again at the next start if it did not end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::collect::disk;
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

/// Orders that are kept; older ones go.
const KEPT: usize = 10_000;
/// So many more may be there before the oldest are looked for.
const SLACK: usize = 200;
const DONE: &str = ".json";
const OPEN: &str = ".open.json";

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    CreateSource,
    EditSource,
    DeleteSource,
    RefreshList,
    InstallPackage,
    UninstallPackage,
    TrashPackage,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Pending,
    Running,
    Success,
    Failed,
}

/// One order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Order {
    /// 24 hexadecimal digits, in the order of time.
    pub(super) id: String,
    pub(super) pool: String,
    pub(super) logpoint: String,
    pub(super) action: Action,
    pub(super) state: State,
    /// Who ordered it, where that is known.
    pub(super) user: Option<String>,
    /// Seconds since 1970, as all its times.
    pub(super) created: i64,
    pub(super) started: Option<i64>,
    pub(super) finished: Option<i64>,
    /// The body that came with it, secrets masked.
    pub(super) request: Value,
    /// Id of what it is about.
    pub(super) subject: Option<String>,
    pub(super) message: String,
    pub(super) errors: Vec<String>,
    /// What was left out of account.
    pub(super) warnings: Vec<String>,
    /// What came of it beyond the message.
    pub(super) result: Option<Value>,
}

impl Order {
    /// A new one, pending.
    pub(super) fn new(pool: &str, logpoint: &str, action: Action, user: Option<&str>, request: Value) -> Self {
        let now = seconds_now();
        Self {
            id: new_id(now),
            pool: pool.to_owned(),
            logpoint: logpoint.to_owned(),
            action,
            state: State::Pending,
            user: user.map(str::to_owned),
            created: now,
            started: None,
            finished: None,
            request,
            subject: None,
            message: String::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            result: None,
        }
    }

    /// Where it can be watched.
    pub(super) fn path(&self) -> String {
        format!("/monitorapi/{}/{}/orders/{}", self.pool, self.logpoint, self.id)
    }

    /// Says that work on it begins.
    pub(super) fn begin(&mut self) {
        self.state = State::Running;
        self.started = Some(seconds_now());
    }

    /// Says how it ended: well, if there are no errors.
    pub(super) fn end(&mut self, message: impl Into<String>, errors: Vec<String>) {
        let now = seconds_now();
        self.state = if errors.is_empty() { State::Success } else { State::Failed };
        self.started = self.started.or(Some(now));
        self.finished = Some(now);
        self.message = message.into();
        self.errors = errors;
    }

    /// As it is answered: the four keys of the original, and what else is known.
    pub(super) fn shown(&self) -> Value {
        let mut response = Map::new();
        if self.finished.is_some() {
            response.insert("success".to_owned(), (self.state == State::Success).into());
            response.insert("message".to_owned(), self.message.as_str().into());
            response.insert("errors".to_owned(), self.errors.clone().into());
            response.insert("warnings".to_owned(), self.warnings.clone().into());
            if let Some(id) = &self.subject {
                response.insert("id".to_owned(), id.as_str().into());
            }
            if let Some(result) = &self.result {
                response.insert("result".to_owned(), result.clone());
            }
        }
        json!({
            "request": self.request,
            "pool_uuid": self.pool,
            "logpoint_identifier": self.logpoint,
            "response": response,
            "id": self.id,
            "action": self.action,
            "state": self.state,
            "user": self.user,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
        })
    }
}

/// The orders of a server.
#[derive(Debug)]
pub(super) struct Orders {
    folder: PathBuf,
    /// About how many files there are.
    count: AtomicUsize,
    pruning: Mutex<()>,
}

impl Orders {
    /// Those below the folder of sources, and the ones among them that did not end.
    pub(super) fn open(sources: &Path) -> io::Result<(Self, Vec<Order>)> {
        let orders = Self { folder: sources.join("orders"), count: AtomicUsize::new(0), pruning: Mutex::default() };
        let names = orders.names()?;
        orders.count.store(names.len(), Ordering::Relaxed);
        let mut unfinished = Vec::new();
        for name in names.iter().filter(|name| name.ends_with(OPEN)) {
            let path = orders.folder.join(name);
            match read(&path)? {
                // A kill between the two steps of its end.
                Some(order) if orders.folder.join(format!("{}{DONE}", order.id)).exists() => {
                    disk::remove(&path)?;
                }
                Some(order) => unfinished.push(order),
                None => {
                    tracing::warn!(order = name, "an order cannot be read, and is removed");
                    disk::remove(&path)?;
                }
            }
        }
        Ok((orders, unfinished))
    }

    /// Keeps it. On disk when this returns.
    pub(super) fn put(&self, order: &Order) -> io::Result<()> {
        let text = serde_json::to_vec(order)?;
        let open = self.folder.join(format!("{}{OPEN}", order.id));
        if order.finished.is_none() {
            disk::replace_private(&open, &text)?;
        } else {
            disk::replace_private(&self.folder.join(format!("{}{DONE}", order.id)), &text)?;
            // Most never were open.
            if open.exists() {
                disk::remove(&open)?;
            }
        }
        if self.count.fetch_add(1, Ordering::Relaxed) > KEPT + SLACK {
            self.prune()?;
        }
        Ok(())
    }

    /// The order of that id, if it belongs there.
    pub(super) fn get(&self, pool: &str, logpoint: &str, id: &str) -> io::Result<Option<Order>> {
        if !is_id(id) {
            return Ok(None);
        }
        // It may end between the two looks.
        for ending in [DONE, OPEN, DONE] {
            if let Some(order) = read(&self.folder.join(format!("{id}{ending}")))? {
                return Ok(Some(order).filter(|order| order.pool == pool && order.logpoint == logpoint));
            }
        }
        Ok(None)
    }

    /// Removes the oldest, as far as they ended.
    fn prune(&self) -> io::Result<()> {
        let Some(_alone) = self.pruning.try_lock() else { return Ok(()) };
        let mut names = self.names()?;
        self.count.store(names.len(), Ordering::Relaxed);
        names.sort_unstable();
        let surplus = names.len().saturating_sub(KEPT);
        for name in names.iter().take(surplus).filter(|name| !name.ends_with(OPEN)) {
            if fs::remove_file(self.folder.join(name)).is_ok() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string()
                && name.strip_suffix(OPEN).or(name.strip_suffix(DONE)).is_some_and(is_id)
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// `None`: there is none, or it cannot be read.
fn read(path: &Path) -> io::Result<Option<Order>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Seconds since 1970.
pub(super) fn seconds_now() -> i64 {
    Timestamp::now().0.div_euclid(MICROS_PER_SECOND)
}

fn new_id(now: i64) -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{:08x}{}", u32::try_from(now).unwrap_or(u32::MAX), random.get(..16).unwrap_or_default())
}

fn is_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order::new("p", "l", Action::RefreshList, Some("ann"), json!({ "data": {} }))
    }

    #[test]
    fn orders_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let (orders, unfinished) = Orders::open(folder.path()).unwrap();
        assert_eq!(unfinished, []);
        let (mut done, mut open, mut failed) = (order(), order(), order());
        orders.put(&open).unwrap();
        orders.put(&done).unwrap();
        done.begin();
        orders.put(&done).unwrap();
        done.end("Done.", Vec::new());
        orders.put(&done).unwrap();
        failed.end("No.", vec!["why".to_owned()]);
        orders.put(&failed).unwrap();
        open.begin();
        orders.put(&open).unwrap();

        let (orders, unfinished) = Orders::open(folder.path()).unwrap();
        assert_eq!(unfinished, [open.clone()]);
        assert_eq!(orders.get("p", "l", &done.id).unwrap(), Some(done.clone()));
        assert_eq!(orders.get("p", "l", &open.id).unwrap(), Some(open.clone()));
        for (pool, logpoint, id) in [
            ("q", "l", &*done.id),
            ("p", "m", &done.id),
            ("p", "l", ""),
            ("p", "l", "../key"),
            ("p", "l", &"0".repeat(24)),
        ] {
            assert_eq!(orders.get(pool, logpoint, id).unwrap(), None, "{pool} {logpoint} {id}");
        }
        let shown = done.shown();
        assert_eq!(shown["response"], json!({ "success": true, "message": "Done.", "errors": [], "warnings": [] }));
        assert_eq!((&shown["state"], &shown["action"]), (&json!("Success"), &json!("refresh_list")));
        assert_eq!(open.shown()["response"], json!({}));
        assert_eq!(failed.shown()["response"]["success"], false);
        assert!(done.path().starts_with("/monitorapi/p/l/orders/"));
    }

    #[test]
    fn a_kill_at_the_end_leaves_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (orders, _) = Orders::open(folder.path()).unwrap();
        let mut order = order();
        orders.put(&order).unwrap();
        let open = folder.path().join("orders").join(format!("{}{OPEN}", order.id));
        let text = fs::read(&open).unwrap();
        order.end("Done.", Vec::new());
        orders.put(&order).unwrap();
        assert!(!open.exists());
        fs::write(&open, text).unwrap();
        fs::write(folder.path().join("orders").join(format!("{}{OPEN}", "0".repeat(24))), "torn").unwrap();
        let (orders, unfinished) = Orders::open(folder.path()).unwrap();
        assert_eq!(unfinished, []);
        assert_eq!(orders.get("p", "l", &order.id).unwrap(), Some(order));
        assert_eq!(orders.names().unwrap().len(), 1);
    }

    #[test]
    fn the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders");
        fs::create_dir_all(&path).unwrap();
        let old = order();
        for number in 0..KEPT + SLACK {
            let order = Order { id: format!("{number:024x}"), finished: Some(1), ..old.clone() };
            fs::write(path.join(format!("{}{DONE}", order.id)), "{}").unwrap();
        }
        let open = Order { id: format!("{:024x}", 1), ..old };
        fs::remove_file(path.join(format!("{}{DONE}", open.id))).unwrap();
        fs::write(path.join(format!("{}{OPEN}", open.id)), serde_json::to_vec(&open).unwrap()).unwrap();
        let (orders, unfinished) = Orders::open(folder.path()).unwrap();
        assert_eq!(unfinished.len(), 1);
        for _ in 0..2 {
            orders.put(&order()).unwrap();
        }
        let names = orders.names().unwrap();
        assert_eq!(names.len(), KEPT + 1, "and the one that did not end");
        assert!(names.contains(&format!("{}{OPEN}", open.id)));
        assert!(!names.contains(&format!("{:024x}{DONE}", 0)));
    }
}
