//! How large a request's head may be, how many requests at once, how long one may take to begin its answer; and what
//! counts them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use parking_lot::Mutex;

use crate::serve::auth::Identity;
use crate::serve::client::{Client, network};
use crate::serve::error::ServeError;
use crate::serve::rate;
use crate::serve::router::App;

/// What is added to both limits of a head together, to make that at which hyper itself refuses it under HTTP/2, which it
/// does without a body: hyper counts 32 bytes more for each field.
const HEAD_MARGIN_BYTES: usize = 16 * 1024;

/// Where hyper refuses an HTTP/2 head.
pub(super) fn max_head_bytes(url_bytes: usize, headers_bytes: usize) -> u32 {
    u32::try_from(url_bytes.saturating_add(headers_bytes).saturating_add(HEAD_MARGIN_BYTES)).unwrap_or(u32::MAX)
}

/// Refuses heads that are too large, with an error resource. That leaves to hyper, which answers with an empty body,
/// what never becomes a request: under HTTP/1 a URL of 64 KiB (414), more than 100 fields or 400 KiB (431) and what is
/// not HTTP (400); under HTTP/2 a head above [`max_head_bytes`] (431) and malformed ones (the stream is reset).
pub(super) async fn limit_head(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limits = &app.options.limits;
    let url = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if url > limits.url_bytes {
        return ServeError::UrlTooLong { bytes: url, max: limits.url_bytes }.into_response();
    }
    // `name: value\r\n`
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers > limits.headers_bytes {
        return ServeError::HeadersTooLarge { bytes: headers, max: limits.headers_bytes }.into_response();
    }
    next.run(request).await
}

/// Answers up to this many bytes that are there as a whole hold no permit: all work on them is done, and whoever leaves
/// them unread, which takes no credentials where they are errors, must not keep others out.
const SMALL_ANSWER_BYTES: u64 = 64 * 1024;

/// A request's right to be worked on, in all and of its client. Travels with a response whose body is still to be made
/// until that is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    _in_all: Option<Arc<Share>>,
    _of_client: Option<Arc<Place<ClientKey>>>,
}

/// Refuses what is too much. A client that is told at once comes back later; one that queues has already given up when
/// its turn comes.
pub(super) async fn limit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limits = &app.options.limits;
    let mut permit = Tally::share(&app.lasting.requests);
    if !permit.grow_to(1, limits.concurrent_requests as u64) {
        return ServeError::Busy { what: "concurrent requests" }.into_response();
    }
    // Of one that brings a body, the time for that comes on top.
    let for_body = if request.method() == Method::POST { limits.body_timeout } else { Duration::ZERO };
    match tokio::time::timeout(limits.request_timeout.saturating_add(for_body), next.run(request)).await {
        Ok(mut response) => {
            let held = response.extensions_mut().remove::<Held>().unwrap_or_default();
            if response.body().size_hint().exact().is_none_or(|bytes| bytes > SMALL_ANSWER_BYTES) {
                response.extensions_mut().insert(Held { _in_all: Some(Arc::new(permit)), ..held });
            }
            response
        }
        Err(_) => ServeError::TimedOut.into_response(),
    }
}

/// Refuses what is too much of one client. Comes after authentication, since a user is one client wherever they are.
pub(super) async fn limit_client(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limits = &app.options.limits;
    let key = ClientKey::of(&request);
    let Some(place) = Tallies::take(&app.lasting.clients, key.clone(), limits.concurrent_requests_per_client) else {
        return ServeError::TooMany { what: "requests at once", retry_after: 1 }.into_response();
    };
    let rate = match rate::check(&app, &key) {
        Ok(rate) => rate,
        Err(refusal) => return *refusal,
    };
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Held { _in_all: None, _of_client: Some(Arc::new(place)) });
    if let Some(rate) = rate {
        rate.tell(&mut response);
    }
    response
}

/// Who counts as one client: a user, or an address without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClientKey {
    /// By name.
    User(Arc<str>),
    /// By address, or its [`network`].
    Address(IpAddr),
}

impl ClientKey {
    fn of(request: &Request) -> Self {
        match request.extensions().get::<Identity>() {
            Some(user @ Identity::User(_)) => ClientKey::User(user.name().into()),
            _ => ClientKey::of_address(Client::address_of(request)),
        }
    }

    pub(super) fn of_address(address: IpAddr) -> Self {
        ClientKey::Address(network(address))
    }
}

/// How much of something is in use; how much may be is said by whoever takes.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    /// How much is in use.
    pub(super) fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Nothing of it yet.
    pub(super) fn share(tally: &Arc<Tally>) -> Share {
        Share { tally: Arc::clone(tally), taken: 0 }
    }
}

/// What one has taken of a [`Tally`]; goes back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    tally: Arc<Tally>,
    taken: u64,
}

impl Share {
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Grows to `wanted`, unless more than `most` would be in use then.
    pub(super) fn grow_to(&mut self, wanted: u64, most: u64) -> bool {
        let more = wanted.saturating_sub(self.taken);
        let grown = self.tally.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|used| *used <= most)
        });
        self.taken += if grown.is_ok() { more } else { 0 };
        grown.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.tally.0.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// How many of something each key has; only keys that have some take memory.
#[derive(Debug)]
pub(super) struct Tallies<K>(Mutex<HashMap<K, usize>>);

impl<K> Default for Tallies<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Tallies<K> {
    /// One more for that key, unless it has `most` already.
    pub(super) fn take(tallies: &Arc<Self>, key: K, most: usize) -> Option<Place<K>> {
        let mut counts = tallies.0.lock();
        match counts.entry(key.clone()) {
            Entry::Occupied(mut count) if *count.get() < most => *count.get_mut() += 1,
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) if most > 0 => {
                place.insert(1);
            }
            Entry::Vacant(_) => return None,
        }
        drop(counts);
        Some(Place { tallies: Arc::clone(tallies), key })
    }
}

/// One that a key has of a [`Tallies`]; goes back when dropped.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    tallies: Arc<Tallies<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.tallies.0.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_places_go_back() {
        let tally = Arc::new(Tally::default());
        let (mut a, mut b) = (Tally::share(&tally), Tally::share(&tally));
        assert!(a.grow_to(6, 10) && !b.grow_to(5, 10) && b.grow_to(4, 10) && !a.grow_to(7, 10) && a.grow_to(3, 10));
        assert_eq!((tally.used(), a.taken()), (10, 6), "a share does not shrink");
        drop(a);
        assert!(b.grow_to(10, 10));
        drop(b);
        assert_eq!(tally.used(), 0);

        let tallies: Arc<Tallies<&str>> = Arc::default();
        let first = Tallies::take(&tallies, "a", 2);
        let second = Tallies::take(&tallies, "a", 2);
        assert!(first.is_some() && second.is_some() && Tallies::take(&tallies, "a", 2).is_none());
        assert!(Tallies::take(&tallies, "b", 2).is_some() && Tallies::take(&tallies, "c", 0).is_none());
        drop(first);
        assert!(Tallies::take(&tallies, "a", 2).is_some());
        drop(second);
        assert!(tallies.0.lock().is_empty(), "nothing is kept of those who have nothing");
    }

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let key = |text: &str| ClientKey::of_address(text.parse().expect("an address"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
