//! Sources in Prometheus' text format. Written anew for each scrape, so that a source that was removed is gone from it.

use crate::collect::{Scheduler, Watched};
use crate::model::time::{MICROS_PER_SECOND, Timestamp};

/// What is told of each source: name, kind, what it is, and its value.
type Told = (&'static str, &'static str, &'static str, fn(&Watched) -> f64);

const TOLD: [Told; 11] = [
    ("taxiway_source_active", "gauge", "Whether the source is fetched on its schedule.", |watched| {
        f64::from(u8::from(watched.source.is_active()))
    }),
    ("taxiway_source_up", "gauge", "Whether the last fetch went well.", |watched| {
        f64::from(u8::from(watched.state.failures == 0 && watched.state.error.is_none()))
    }),
    ("taxiway_source_running", "gauge", "Whether it is being fetched by this server.", |watched| {
        f64::from(u8::from(watched.running.is_some()))
    }),
    ("taxiway_source_last_attempt_timestamp_seconds", "gauge", "When the last fetch began; 0: never.", |watched| {
        seconds(watched.state.last_attempt)
    }),
    (
        "taxiway_source_last_success_timestamp_seconds",
        "gauge",
        "When the last fetch that came to its end did so; 0: never.",
        |watched| seconds(watched.state.last_success),
    ),
    ("taxiway_source_fetches_total", "counter", "Fetches.", |watched| watched.state.fetches as f64),
    ("taxiway_source_fetch_failures_total", "counter", "Fetches that failed.", |watched| watched.state.failed as f64),
    ("taxiway_source_objects_total", "counter", "Objects that came.", |watched| {
        watched.state.objects as f64 + watched.running.as_ref().map_or(0.0, |standing| standing.objects as f64)
    }),
    ("taxiway_source_new_total", "counter", "Objects that were new.", |watched| watched.state.new as f64),
    ("taxiway_source_changed_total", "counter", "Objects that changed what was there.", |watched| {
        watched.state.changed as f64
    }),
    ("taxiway_source_rejected_total", "counter", "Objects that could not be used.", |watched| {
        watched.state.rejected as f64
    }),
];

fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.0 as f64 / MICROS_PER_SECOND as f64)
}

/// All that is told of all sources. May block.
pub(super) fn text(scheduler: &Scheduler) -> String {
    let watched = match scheduler.watch() {
        Ok(watched) => watched,
        Err(error) => {
            tracing::warn!(%error, "monitoring cannot be told of the sources");
            return String::new();
        }
    };
    written(&watched)
}

fn written(watched: &[Watched]) -> String {
    let mut text = String::new();
    if watched.is_empty() {
        return text;
    }
    for (name, kind, what, value) in TOLD {
        text.push_str(&format!("# HELP {name} {what}\n# TYPE {name} {kind}\n"));
        for one in watched {
            let label = &one.source.definition.name;
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!("{name}{{source=\"{label}\"}} {}\n", value(one)));
        }
        text.push('\n');
    }
    text
}
