//! Counters for Prometheus. Labels are bounded by the configuration and the code: routes as patterns, collections by id,
//! never a path, a name or an address that a client chose.
//!
//! The recorder belongs to one server, not to the process: two servers in one process (the tests) count apart.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::serve::audit::{Action, Deed};

/// Upper bounds of the latency histograms, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0];

const METADATA: Metadata<'static> = Metadata::new("taxiway", Level::INFO, None);

/// Counters: name, what it counts.
const COUNTERS: [(&str, &str); 19] = [
    ("taxiway_requests_total", "Requests answered, by method, route and class of status."),
    ("taxiway_requests_refused_total", "Requests refused, by reason."),
    ("taxiway_response_bytes_total", "Bytes of answers' bodies, as sent."),
    ("taxiway_responses_incomplete_total", "Answers that did not reach their end."),
    ("taxiway_auth_total", "Who came in and who did not, by how they proved who they are."),
    ("taxiway_objects_served_total", "Objects, manifest entries and versions given out, by collection."),
    ("taxiway_posts_total", "Posts taken in, by collection."),
    ("taxiway_objects_posted_total", "Objects taken in by posts, by collection."),
    ("taxiway_deletes_total", "Deletions, by collection."),
    ("taxiway_objects_deleted_total", "Object versions deleted, by collection."),
    ("taxiway_enrich_lines_total", "Lines that came to be enriched."),
    ("taxiway_enrich_events_enriched_total", "Events among them that something was found for."),
    ("taxiway_enrich_lines_malformed_total", "Lines among them that are no events."),
    ("taxiway_lookups_total", "Single values looked up."),
    ("taxiway_connections_total", "Connections accepted."),
    ("taxiway_connections_refused_total", "Connections closed at once, by reason."),
    ("taxiway_tls_handshake_failures_total", "Connections that did not get through the TLS handshake."),
    ("taxiway_reloads_total", "Configuration and TLS files read again, by result."),
    ("taxiway_audit_lost_total", "Lines of the audit log that could not be written."),
];

/// Gauges: name, what it shows.
const GAUGES: [(&str, &str); 12] = [
    ("taxiway_build_info", "Always 1; the label is the version."),
    ("taxiway_requests_in_flight", "Requests whose answer is not yet gone."),
    (
        "taxiway_permits_used",
        "Requests in work, or whose large answer is not yet gone; limits.concurrent_requests of them.",
    ),
    ("taxiway_bodies_bytes", "Memory that bodies of requests take, of limits.bodies_bytes."),
    ("taxiway_connections", "Open connections."),
    ("taxiway_store_version", "Version of the store's newest manifest."),
    ("taxiway_store_segments", "Segments of the store."),
    ("taxiway_store_rows", "Rows that can be served."),
    ("taxiway_store_rows_waiting", "Relationships whose ends are not there yet."),
    ("taxiway_collections", "Collections that are served."),
    ("taxiway_ready", "1 while the server takes requests and can read its store."),
    ("taxiway_password_hashes", "Passwords hashed since the start."),
];

const FIRST_BYTE: &str = "taxiway_request_first_byte_seconds";
const TOTAL: &str = "taxiway_request_seconds";

/// All counters of a server.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    in_flight: AtomicU64,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        // It fails for no buckets at all, and leaves summaries in their place.
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).unwrap_or_default();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        for (name, text) in COUNTERS {
            recorder.describe_counter(KeyName::from_const_str(name), None, SharedString::const_str(text));
        }
        for (name, text) in GAUGES {
            recorder.describe_gauge(KeyName::from_const_str(name), None, SharedString::const_str(text));
        }
        for (name, text) in [
            (FIRST_BYTE, "Time from the head of a request to the head of its answer, by route."),
            (TOTAL, "Time from the head of a request to the end of its answer, by route."),
        ] {
            let unit = Some(Unit::Seconds);
            recorder.describe_histogram(KeyName::from_const_str(name), unit, SharedString::const_str(text));
        }
        let metrics = Self { recorder, handle, in_flight: AtomicU64::new(0) };
        // Those without labels are there from the start: what is 0 is known, what is missing is not.
        for name in [
            "taxiway_response_bytes_total",
            "taxiway_responses_incomplete_total",
            "taxiway_connections_total",
            "taxiway_tls_handshake_failures_total",
            "taxiway_audit_lost_total",
        ] {
            metrics.count(name, &[], 0);
        }
        metrics.show("taxiway_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        metrics
    }
}

/// What one request came to.
#[derive(Debug)]
pub(super) struct Answered<'a> {
    pub(super) method: &'a Method,
    /// Pattern of the path.
    pub(super) route: Option<&'a str>,
    /// `None`: it was taken back.
    pub(super) status: Option<StatusCode>,
    /// To the head of the answer.
    pub(super) first_byte: Duration,
    /// To its end.
    pub(super) total: Duration,
    pub(super) bytes: u64,
    pub(super) complete: bool,
    pub(super) deed: Option<&'a Deed>,
}

impl Metrics {
    /// One more request in flight; call [`Metrics::answered`] once for each.
    pub(super) fn begun(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is gone.
    pub(super) fn answered(&self, answered: &Answered<'_>) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let method = match *answered.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            Method::HEAD => "HEAD",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        let route = answered.route.map_or("none", |route| match route.trim_end_matches('/') {
            "" => "/",
            route => route,
        });
        let status = match answered.status.map(|status| status.as_u16() / 100) {
            None => "none",
            Some(1) => "1xx",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(_) => "5xx",
        };
        self.count("taxiway_requests_total", &[("method", method), ("route", route), ("status", status)], 1);
        self.count("taxiway_response_bytes_total", &[], answered.bytes);
        if !answered.complete {
            self.count("taxiway_responses_incomplete_total", &[], 1);
        }
        self.time(FIRST_BYTE, route, answered.first_byte);
        self.time(TOTAL, route, answered.total);
        if let Some(deed) = answered.deed.filter(|_| answered.status.is_some_and(|status| status.is_success())) {
            self.done(deed);
        }
    }

    fn done(&self, deed: &Deed) {
        let labels = [("collection", deed.collection.as_deref().unwrap_or("none"))];
        match deed.action {
            Action::Read => self.count("taxiway_objects_served_total", &labels, deed.objects),
            Action::Write => {
                self.count("taxiway_posts_total", &labels, 1);
                self.count("taxiway_objects_posted_total", &labels, deed.objects);
            }
            Action::Delete => {
                self.count("taxiway_deletes_total", &labels, 1);
                self.count("taxiway_objects_deleted_total", &labels, deed.objects);
            }
        }
    }

    /// Adds to a counter. Values of labels must come from a bounded set.
    pub(super) fn count(&self, name: &'static str, labels: &[(&'static str, &str)], by: u64) {
        self.recorder.register_counter(&key(name, labels), &METADATA).increment(by);
    }

    /// Sets a gauge.
    pub(super) fn show(&self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }

    fn time(&self, name: &'static str, route: &str, time: Duration) {
        self.recorder.register_histogram(&key(name, &[("route", route)]), &METADATA).record(time.as_secs_f64());
    }

    /// Everything, in Prometheus' text format.
    pub(super) fn text(&self) -> String {
        self.show("taxiway_requests_in_flight", &[], self.in_flight.load(Ordering::Relaxed) as f64);
        self.handle.render()
    }

    /// Folds what histograms gathered into their buckets. Has to be called now and then, or they grow.
    pub(super) fn tidy(&self) {
        self.handle.run_upkeep();
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    if labels.is_empty() {
        return Key::from_static_name(name);
    }
    let label = |(key, value): &(&'static str, &str)| Label::new(*key, Cow::from((*value).to_owned()));
    Key::from_parts(name, labels.iter().map(label).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_written() {
        let metrics = Metrics::default();
        let deed = |action, objects| Deed {
            action,
            api_root: "root".to_owned(),
            collection: Some("c1".to_owned()),
            object: None,
            objects,
        };
        let deeds = [deed(Action::Read, 3), deed(Action::Write, 2), deed(Action::Delete, 1)];
        for deed in &deeds {
            metrics.begun();
            metrics.answered(&Answered {
                method: &Method::GET,
                route: Some("/root/collections/{collection}/objects/"),
                status: Some(StatusCode::OK),
                first_byte: Duration::from_millis(3),
                total: Duration::from_secs(2),
                bytes: 1000,
                complete: deed.objects != 1,
                deed: Some(deed),
            });
        }
        metrics.begun();
        let text = metrics.text();
        let route = "route=\"/root/collections/{collection}/objects\"";
        for line in [
            &format!("taxiway_requests_total{{method=\"GET\",{route},status=\"2xx\"}} 3"),
            "taxiway_response_bytes_total 3000",
            "taxiway_responses_incomplete_total 1",
            "taxiway_objects_served_total{collection=\"c1\"} 3",
            "taxiway_posts_total{collection=\"c1\"} 1",
            "taxiway_objects_posted_total{collection=\"c1\"} 2",
            "taxiway_objects_deleted_total{collection=\"c1\"} 1",
            "taxiway_requests_in_flight 1",
            "taxiway_tls_handshake_failures_total 0",
            &format!("taxiway_request_first_byte_seconds_bucket{{{route},le=\"0.005\"}} 3"),
            &format!("taxiway_request_first_byte_seconds_bucket{{{route},le=\"0.0025\"}} 0"),
            &format!("taxiway_request_seconds_count{{{route}}} 3"),
            "# TYPE taxiway_requests_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let version = concat!("taxiway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1");
        assert!(text.contains(version), "{text}");
    }
}
