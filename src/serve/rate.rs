//! Requests a minute of one client.
//!
//! Who comes less often may come several times at once: a client's allowance fills up evenly, to a minute's worth.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::RwLock;

use crate::serve::error::ServeError;
use crate::serve::limits::ClientKey;
use crate::serve::router::App;

/// draft-ietf-httpapi-ratelimit-headers: what a client may ask for, and what is left of it.
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// See [`RATE_LIMIT_POLICY`].
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Most clients that are remembered.
const MAX_CLIENTS: usize = 100_000;

type Limiter = RateLimiter<ClientKey, DashMapStateStore<ClientKey>, DefaultClock, StateInformationMiddleware>;

/// The allowances of all clients.
#[derive(Debug, Default)]
pub(super) struct Rates(RwLock<Option<PerMinute>>);

#[derive(Clone, Debug)]
struct PerMinute {
    requests: NonZeroU32,
    limiter: Arc<Limiter>,
}

/// What a client has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    requests: NonZeroU32,
    left: u32,
}

impl PerMinute {
    fn new(requests: NonZeroU32) -> Self {
        let limiter = RateLimiter::dashmap(Quota::per_minute(requests)).with_middleware::<StateInformationMiddleware>();
        Self { requests, limiter: Arc::new(limiter) }
    }
}

impl Rates {
    /// The limiter for that many requests a minute; another one begins anew when a reload changed the number.
    fn of(&self, requests: NonZeroU32) -> PerMinute {
        if let Some(current) = self.0.read().as_ref().filter(|current| current.requests == requests) {
            return current.clone();
        }
        let mut place = self.0.write();
        match place.as_ref().filter(|current| current.requests == requests) {
            Some(current) => current.clone(),
            None => place.insert(PerMinute::new(requests)).clone(),
        }
    }

    /// Forgets clients whose allowance is full again. If that leaves too many, which takes as many addresses at once,
    /// everyone begins anew: memory is bounded, and the limits on all requests together still hold.
    pub(super) fn tidy(&self) {
        let current = self.0.read().clone();
        let Some(current) = current else { return };
        current.limiter.retain_recent();
        if current.limiter.len() > MAX_CLIENTS {
            tracing::warn!(
                clients = current.limiter.len(),
                "too many clients to remember the rates of; they begin anew"
            );
            *self.0.write() = None;
        } else {
            current.limiter.shrink_to_fit();
        }
    }
}

/// Takes one request off the client's allowance; the error is the answer for one whose allowance is used up.
pub(super) fn check(app: &App, key: &ClientKey) -> Result<Option<Rate>, Box<Response>> {
    let Some(requests) = app.options.limits.requests_per_minute.and_then(NonZeroU32::new) else { return Ok(None) };
    let current = app.lasting.rates.of(requests);
    if current.limiter.len() > 2 * MAX_CLIENTS {
        app.lasting.rates.tidy();
    }
    match current.limiter.check_key(key) {
        Ok(state) => Ok(Some(Rate { requests, left: state.remaining_burst_capacity() })),
        Err(not_until) => {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let retry_after = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let retry_after = retry_after.max(1);
            let mut response = ServeError::TooMany { what: "requests a minute", retry_after }.into_response();
            Rate { requests, left: 0 }.write(&mut response, Some(retry_after));
            Err(Box::new(response))
        }
    }
}

impl Rate {
    /// Tells the client.
    pub(super) fn tell(self, response: &mut Response) {
        self.write(response, None);
    }

    fn write(self, response: &mut Response, reset: Option<u64>) {
        let policy = format!("\"client\";q={};w=60", self.requests);
        let reset = reset.map(|seconds| format!(";t={seconds}")).unwrap_or_default();
        let state = format!("\"client\";r={}{reset}", self.left);
        for (name, text) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                response.headers_mut().insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn allowances_are_forgotten_when_they_are_full() {
        let rates = Rates::default();
        let quick = rates.of(NonZeroU32::new(u32::MAX).expect("not zero"));
        for host in 0..1000_u32 {
            let key = ClientKey::of_address(IpAddr::V4(host.into()));
            assert!(quick.limiter.check_key(&key).is_ok());
        }
        let same = rates.of(NonZeroU32::new(u32::MAX).expect("not zero"));
        assert!(Arc::ptr_eq(&quick.limiter, &same.limiter));
        // At this rate an allowance is full again after nanoseconds.
        rates.tidy();
        assert!(quick.limiter.len() < 1000);
        let other = rates.of(NonZeroU32::MIN);
        assert!(other.limiter.is_empty());
        let key = ClientKey::User("ann".into());
        assert!(other.limiter.check_key(&key).is_ok() && other.limiter.check_key(&key).is_err());
    }
}
