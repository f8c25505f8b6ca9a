//! TAXII 2.0 and 2.1 as servers in the wild speak it (spec/taxii-2.md §15).

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::{Asked, Reply, Served, connected, pages, texts, warnings};
use crate::model::time::Timestamp;
use crate::source::{Collection, Page, Place, SourceError, Version};

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    Nothing,
    /// `more` without `next`.
    NoNext,
    /// The same, and most objects were added at one time.
    NoNextAndTies,
    /// Neither `more` nor `next` ever.
    NeverSaysMore,
    /// `more` false although `next` is there.
    SaysNoMoreButNext,
    /// `more` on the last page too, which leads to an empty one.
    AlwaysSaysMore,
    /// No dates in headers; the manifest has them.
    NoDates,
    /// No dates anywhere.
    NoDatesAtAll,
    /// First and last exchanged.
    SwappedDates,
    /// The text `undefined` for dates.
    UndefinedDates,
    /// The dates of the whole collection with each page.
    DatesOfAll,
    /// The server keeps the place behind a cursor that never changes.
    KeepsPlace,
    /// The same, and the answer to its second request breaks off.
    KeepsPlaceAndBreaks,
    /// Cursors are gone at the third request for objects.
    Expires,
    /// `next` is a number.
    NumberedNext,
    /// More objects than asked for.
    IgnoresLimit,
    /// 400 for limits beyond five.
    RefusesLimit,
    /// `added_after` counts objects of that date in.
    InclusiveAfter,
    /// `added_after` is not read at all.
    IgnoresAfter,
    /// A bundle in place of the envelope.
    Bundle,
    /// `application/json` in place of the right type.
    WrongType,
    /// Each page is sent once more before the next one.
    RepeatsPages,
}

const COUNT: usize = 37;
const ID: &str = "00000000-0000-4000-8000-000000000001";

fn added(number: usize, trap: Trap) -> Timestamp {
    let number = if trap == Trap::NoNextAndTies && (5..33).contains(&number) { 5 } else { number };
    Timestamp(1_717_200_000_000_000 + number as i64 * 1_000)
}

fn object(number: usize) -> String {
    format!("{{\"type\": \"x-thing\",\n \"id\":\"x-thing--{number}\",\"n\":{number}.0}}")
}

fn json(body: String) -> Reply {
    Reply::new(200, "application/taxii+json;version=2.1", body)
}

/// A server of 2.1 with one collection.
struct Sim {
    trap: Trap,
    /// Objects it has.
    count: Mutex<usize>,
    /// Where the kept place is.
    kept: Mutex<usize>,
    /// Requests for objects.
    requests: Mutex<usize>,
}

impl Sim {
    fn new(trap: Trap) -> Self {
        Sim { trap, count: Mutex::new(COUNT), kept: Mutex::new(0), requests: Mutex::new(0) }
    }

    fn answer(&self, asked: &Asked) -> Reply {
        let collection = format!("{{\"id\":\"{ID}\",\"title\":\"Things\",\"can_read\":true,\"can_write\":false}}");
        match asked.place().trim_end_matches('/') {
            "/taxii2" => json(r#"{"title":"Some","api_roots":["/root/"]}"#.to_owned()),
            "/root" => json(
                r#"{"title":"Root","versions":["application/taxii+json;version=2.1"],"max_content_length":1}"#
                    .to_owned(),
            ),
            "/root/collections" => json(format!("{{\"collections\":[{collection}]}}")),
            place if place == format!("/root/collections/{ID}") => json(collection),
            place if place == format!("/root/collections/{ID}/objects") => self.objects(asked),
            place if place == format!("/root/collections/{ID}/manifest") && self.trap != Trap::NoDatesAtAll => {
                let wanted = asked.query("match[id]").unwrap_or_default();
                let records: Vec<String> = (0..*self.count.lock().unwrap())
                    .filter(|number| wanted.split(',').any(|id| id == format!("x-thing--{number}")))
                    .map(|number| {
                        format!("{{\"id\":\"x-thing--{number}\",\"date_added\":\"{}\"}}", added(number, self.trap))
                    })
                    .collect();
                json(format!("{{\"objects\":[{}]}}", records.join(",")))
            }
            _ => Reply::new(404, "application/json", "{\"title\":\"nothing here\"}"),
        }
    }

    fn objects(&self, asked: &Asked) -> Reply {
        let trap = self.trap;
        let turn = {
            let mut requests = self.requests.lock().unwrap();
            *requests += 1;
            *requests
        };
        let mut limit: usize = asked.query("limit").map_or(1_000, |text| text.parse().unwrap());
        if trap == Trap::RefusesLimit && limit > 5 && asked.query("limit").is_some() {
            return Reply::new(400, "application/json", "{\"title\":\"limit too large\"}");
        }
        if trap == Trap::IgnoresLimit {
            limit = 16;
        }
        limit = limit.min(100);
        let after = asked
            .query("added_after")
            .filter(|_| trap != Trap::IgnoresAfter)
            .map(|text| Timestamp::parse(&text).unwrap());
        let wanted = |number: &usize| match (after, trap) {
            (Some(after), Trap::InclusiveAfter) => added(*number, trap) >= after,
            (Some(after), _) => added(*number, trap) > after,
            (None, _) => true,
        };
        let all: Vec<usize> = (0..*self.count.lock().unwrap()).filter(wanted).collect();
        let next = asked.query("next");
        let mut start = match (&next, trap) {
            (None, _) => 0,
            (Some(_), Trap::KeepsPlace | Trap::KeepsPlaceAndBreaks) => *self.kept.lock().unwrap(),
            (Some(_), Trap::Expires) if turn == 3 => {
                return Reply::new(400, "application/json", "{\"title\":\"next not valid\"}");
            }
            (Some(next), _) => next.trim_start_matches("at-").trim_end_matches("-again").parse().unwrap(),
        };
        let is_first_of_two = trap == Trap::RepeatsPages && next.as_ref().is_none_or(|next| !next.ends_with("-again"));
        start = start.min(all.len());
        let end = (start + limit).min(all.len());
        *self.kept.lock().unwrap() = end;
        let page = &all[start..end];
        let more = end < all.len();
        let mut members = Vec::new();
        if !page.is_empty() {
            members.push(format!("\"objects\":[{}]", page.iter().map(|n| object(*n)).collect::<Vec<_>>().join(",\n")));
        }
        match trap {
            Trap::NoNext | Trap::NoNextAndTies | Trap::IgnoresAfter => members.push(format!("\"more\":{more}")),
            Trap::NeverSaysMore => {}
            Trap::SaysNoMoreButNext if more => members.push(format!("\"more\":false,\"next\":\"at-{end}\"")),
            Trap::AlwaysSaysMore if !page.is_empty() => members.push(format!("\"more\":true,\"next\":\"at-{end}\"")),
            Trap::KeepsPlace | Trap::KeepsPlaceAndBreaks if more => {
                members.push("\"more\":true,\"next\":\"mine\"".to_owned())
            }
            Trap::NumberedNext if more => members.push(format!("\"next\":{end},\"more\":true")),
            Trap::RepeatsPages if is_first_of_two => {
                members.push(format!("\"more\":true,\"next\":\"at-{start}-again\""))
            }
            _ if more => members.push(format!("\"more\":true,\"next\":\"at-{end}\"")),
            _ => members.push("\"more\":false".to_owned()),
        }
        if trap == Trap::Bundle {
            members.insert(0, "\"type\":\"bundle\",\"id\":\"bundle--1\"".to_owned());
        }
        let kind = if trap == Trap::WrongType { "text/plain" } else { "application/taxii+json;version=2.1" };
        let reply = Reply::new(200, kind, format!("{{{}}}", members.join(",")));
        let reply = if trap == Trap::KeepsPlaceAndBreaks && turn == 2 { reply.cut(40, true) } else { reply };
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return reply };
        let (first, last) = (added(*first, trap).to_string(), added(*last, trap).to_string());
        let (first, last) = match trap {
            Trap::NoDates | Trap::NoDatesAtAll => return reply,
            Trap::UndefinedDates => ("undefined".to_owned(), "undefined".to_owned()),
            Trap::SwappedDates => (last, first),
            Trap::DatesOfAll => (added(0, trap).to_string(), added(COUNT - 1, trap).to_string()),
            _ => (first, last),
        };
        reply.with("X-TAXII-Date-Added-First", first).with("X-TAXII-Date-Added-Last", last)
    }
}

async fn sim(trap: Trap) -> (Served, std::sync::Arc<Sim>) {
    let sim = std::sync::Arc::new(Sim::new(trap));
    let of_server = std::sync::Arc::clone(&sim);
    (Served::new(move |asked, _| of_server.answer(asked)).await, sim)
}

fn wanted(count: usize) -> BTreeSet<String> {
    (0..count).map(object).collect()
}

fn set(pages: &[Page]) -> BTreeSet<String> {
    texts(pages).into_iter().collect()
}

const ALL: [Trap; 22] = [
    Trap::Nothing,
    Trap::NoNext,
    Trap::NoNextAndTies,
    Trap::NeverSaysMore,
    Trap::SaysNoMoreButNext,
    Trap::AlwaysSaysMore,
    Trap::NoDates,
    Trap::NoDatesAtAll,
    Trap::SwappedDates,
    Trap::UndefinedDates,
    Trap::DatesOfAll,
    Trap::KeepsPlace,
    Trap::KeepsPlaceAndBreaks,
    Trap::Expires,
    Trap::NumberedNext,
    Trap::IgnoresLimit,
    Trap::RefusesLimit,
    Trap::InclusiveAfter,
    Trap::IgnoresAfter,
    Trap::Bundle,
    Trap::WrongType,
    Trap::RepeatsPages,
];

#[tokio::test]
async fn everything_arrives_whatever_the_server_does() {
    for trap in ALL {
        let (server, sim) = sim(trap).await;
        let client = connected(server.at("taxii2/")).await.unwrap();
        assert_eq!(client.version(), Version::V21);
        let collection = client.collection("Things").await.unwrap();
        let (all, error) = pages(&client, &collection, Place::start()).await;
        assert_eq!(set(&all), wanted(COUNT), "{trap:?}");
        if trap == Trap::IgnoresAfter {
            // Going on would never end.
            assert!(error.is_none_or(|error| matches!(error, SourceError::NoProgress { .. })));
            continue;
        }
        assert_eq!(error, None, "{trap:?}");
        let walks_anew = matches!(trap, Trap::KeepsPlaceAndBreaks | Trap::Expires);
        if !walks_anew {
            assert_eq!(texts(&all).len(), COUNT, "none twice: {trap:?}");
        }
        let last = all.last().unwrap();
        assert!(!last.facts.more && last.facts.ends_answer, "{trap:?}");
        assert!(sim.requests.lock().unwrap().lt(&40), "{trap:?}: {} requests", sim.requests.lock().unwrap());

        // Nothing new, then something new.
        let place: Place = serde_json::from_str(&serde_json::to_string(&last.place).unwrap()).unwrap();
        *sim.requests.lock().unwrap() = 10;
        let (again, error) = pages(&client, &collection, place.clone()).await;
        assert_eq!(error, None, "{trap:?}");
        let repeats = matches!(trap, Trap::NoDatesAtAll | Trap::InclusiveAfter);
        assert!(repeats || texts(&again).is_empty(), "{trap:?}: {:?}", texts(&again));
        if trap == Trap::DatesOfAll {
            continue;
        }
        *sim.count.lock().unwrap() = COUNT + 3;
        let place = again.last().unwrap().place.clone();
        let (fresh, error) = pages(&client, &collection, place).await;
        assert_eq!(error, None, "{trap:?}");
        let new: BTreeSet<String> = (COUNT..COUNT + 3).map(object).collect();
        assert!(set(&fresh).is_superset(&new), "{trap:?}");
        assert!(repeats || set(&fresh) == new, "{trap:?}");
    }
}

#[tokio::test]
async fn whoever_stops_goes_on_from_any_place() {
    for trap in ALL.into_iter().filter(|trap| *trap != Trap::IgnoresAfter) {
        for stop in 1..6 {
            let (server, sim) = sim(trap).await;
            let client = connected(server.at("root/")).await.unwrap();
            let collection = client.collection(ID).await.unwrap();
            let (whole, _) = pages(&client, &collection, Place::start()).await;
            let before: Vec<Page> = whole.into_iter().take(stop).collect();
            // Another day, another process; the server forgot nothing but the place it kept for us.
            *sim.requests.lock().unwrap() = 10;
            *sim.kept.lock().unwrap() = 9_999;
            let place = serde_json::from_str(&serde_json::to_string(&before.last().unwrap().place).unwrap()).unwrap();
            let client = connected(server.at("root/")).await.unwrap();
            let (after, error) = pages(&client, &collection, place).await;
            assert_eq!(error, None, "{trap:?} {stop}");
            let both: BTreeSet<String> = set(&before).union(&set(&after)).cloned().collect();
            assert_eq!(both, wanted(COUNT), "{trap:?} after {stop}");
        }
    }
}

#[tokio::test]
async fn a_server_that_goes_round_in_circles_is_left() {
    let server = Served::new(|asked, _| match asked.place() {
        "/root/" => json(r#"{"title":"Root","versions":["application/taxii+json;version=2.1"]}"#.to_owned()),
        "/root/collections/" => json(r#"{"collections":[{"id":"a","title":"A","can_read":true}]}"#.to_owned()),
        _ => json(format!("{{\"more\":true,\"next\":\"x\",\"objects\":[{}]}}", object(1))),
    })
    .await;
    let client = connected(server.at("root/")).await.unwrap();
    let collection = client.collection("a").await.unwrap();
    let (all, error) = pages(&client, &collection, Place::start()).await;
    assert_eq!(texts(&all), [object(1)]);
    assert!(matches!(error, Some(SourceError::NoProgress { .. })), "{error:?}");
    assert!(server.asked().len() < 10);
    assert!(!all.last().unwrap().place.is_mid_walk(), "nobody goes on from a cursor that leads nowhere");
}

#[tokio::test]
async fn a_single_bad_object_is_left_out() {
    let server = Served::new(|asked, _| match asked.place() {
        "/root/" => json(r#"{"title":"Root","versions":["application/taxii+json;version=2.1"]}"#.to_owned()),
        "/root/collections/" => json(r#"{"collections":[{"id":"a","title":"A","can_read":true}]}"#.to_owned()),
        _ => json(format!(
            "{{\"objects\":[{},\n7,{{\"x\":{}1{}}},{}]}}",
            object(1),
            "[".repeat(500),
            "]".repeat(500),
            object(2)
        )),
    })
    .await;
    let client = connected(server.at("root/")).await.unwrap();
    let (all, error) = pages(&client, &client.collection("a").await.unwrap(), Place::start()).await;
    assert_eq!((texts(&all), error), (vec![object(1), object(2)], None));
    let facts = &all[0].facts;
    assert_eq!(facts.rejected, 2);
    assert_eq!(facts.rejections[0].to_string(), "line 3 (byte 61): it is no JSON object");
}

/// A server of 2.0 that answers to ranges in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Right,
    /// The end is exclusive (medallion 1.1).
    ExclusiveEnd,
    /// The end in `Content-Range` is the count, and the status 200 (XSOAR).
    CountAsEnd,
    /// No `Content-Range`.
    Silent,
    /// No `Content-Range`, and everything each time.
    KnowsNoRanges,
    /// `*` for the total.
    NoTotal,
    /// Only `items 0-9`, not `items=0-9`.
    BlankOnly,
    /// The total counts what is not sent.
    HighTotal,
    NoDates,
}

fn serve_20(asked: &Asked, range: Range) -> Reply {
    let kind = "application/vnd.oasis.taxii+json; version=2.0";
    let json = |body: &str| Reply::new(200, kind, body);
    if asked.header("accept").contains("taxii+json;version=2.1") {
        return Reply::new(406, kind, "{\"title\":\"not that\"}");
    }
    match asked.place() {
        "/taxii/" => {
            return json(
                r#"{"title":"Some","api_roots":["http://localhost:5000/root/"],"default":"http://localhost:5000/root/"}"#,
            );
        }
        "/root/" => return json(r#"{"title":"Root","versions":["taxii-2.0"],"max_content_length":1}"#),
        "/root/collections/" => return json(r#"{"collections":[{"id":"a","title":"A","can_read":true}]}"#),
        "/root/collections/a/objects/" => {}
        "/root/collections/a/manifest/" => {
            let id = asked.query("match[id]").unwrap();
            let records: Vec<String> = (0..COUNT)
                .filter(|n| id.split(',').any(|id| id == format!("x-thing--{n}")))
                .map(|n| {
                    format!(
                        "{{\"id\":\"x-thing--{n}\",\"date_added\":\"{}\",\"versions\":[]}}",
                        added(n, Trap::Nothing)
                    )
                })
                .collect();
            return json(&format!("{{\"objects\":[{}]}}", records.join(",")));
        }
        _ => return Reply::new(404, kind, "{}"),
    }
    let after = asked.query("added_after").map(|text| Timestamp::parse(&text).unwrap());
    let all: Vec<usize> = (0..COUNT).filter(|n| after.is_none_or(|after| added(*n, Trap::Nothing) > after)).collect();
    let header = asked.header("range");
    let spec = match range {
        Range::BlankOnly => header.strip_prefix("items "),
        _ => header.strip_prefix("items="),
    };
    let Some((first, last)) = spec.and_then(|spec| spec.split_once('-')) else {
        return Reply::new(400, kind, "{\"title\":\"bad range\"}");
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let end = match range {
        Range::KnowsNoRanges => all.len(),
        Range::ExclusiveEnd => last,
        _ => last + 1,
    };
    let first = if range == Range::KnowsNoRanges { 0 } else { first };
    let total = all.len() + if range == Range::HighTotal { 5 } else { 0 };
    if first >= total && total > 0 {
        return Reply::new(416, kind, "{}").with("Content-Range", format!("items */{total}"));
    }
    let page = &all[first.min(all.len())..end.min(all.len()).max(first.min(all.len()))];
    let objects = page.iter().map(|n| object(*n)).collect::<Vec<_>>().join(",");
    let list = if page.is_empty() { String::new() } else { format!(",\"objects\":[{objects}]") };
    let body = format!("{{\"type\":\"bundle\",\"id\":\"bundle--1\",\"spec_version\":\"2.0\"{list}}}");
    let stix = "application/vnd.oasis.stix+json; version=2.0";
    let reached = first + page.len();
    let reply = match range {
        Range::Silent | Range::KnowsNoRanges => Reply::new(200, stix, body),
        Range::CountAsEnd => {
            Reply::new(200, stix, body).with("Content-Range", format!("items {first}-{reached}/{total}"))
        }
        Range::NoTotal => {
            Reply::new(206, stix, body).with("Content-Range", format!("items {first}-{}/*", reached.max(1) - 1))
        }
        _ if page.is_empty() => {
            Reply::new(206, stix, body).with("Content-Range", format!("items {first}-{first}/{total}"))
        }
        _ => Reply::new(206, stix, body).with("Content-Range", format!("items {first}-{}/{total}", reached - 1)),
    };
    match (page.first(), page.last()) {
        (Some(first), Some(last)) if range != Range::NoDates => reply
            .with("X-TAXII-Date-Added-First", added(*first, Trap::Nothing).to_string())
            .with("X-TAXII-Date-Added-Last", added(*last, Trap::Nothing).to_string()),
        _ => reply,
    }
}

#[tokio::test]
async fn ranges_are_followed_by_what_was_received() {
    let all = [
        Range::Right,
        Range::ExclusiveEnd,
        Range::CountAsEnd,
        Range::Silent,
        Range::KnowsNoRanges,
        Range::NoTotal,
        Range::BlankOnly,
        Range::HighTotal,
        Range::NoDates,
    ];
    for range in all {
        let server = Served::new(move |asked, _| serve_20(asked, range)).await;
        let client = connected(server.at("taxii/")).await.unwrap();
        assert_eq!(client.version(), Version::V20, "{range:?}");
        assert!(client.notes().join(" ").contains("names `http://localhost:5000/root/`"), "{:?}", client.notes());
        let collection = client.collection("a").await.unwrap();
        for size in [1, 10, COUNT as u32, 1_000] {
            let options = crate::source::Options { page_size: size, ..super::quick() };
            let client = crate::source::Client::connect(crate::source::Endpoint::new(server.at("root/")), options)
                .await
                .unwrap();
            let (found, error) = pages(&client, &collection, Place::start()).await;
            assert_eq!((error, texts(&found).len(), set(&found)), (None, COUNT, wanted(COUNT)), "{range:?} {size}");
            let place = found.last().unwrap().place.clone();
            assert_eq!(place.added_after(), Some(added(COUNT - 1, Trap::Nothing)), "{range:?} {size}");
            let (again, error) = pages(&client, &collection, place).await;
            assert_eq!((error, texts(&again).len()), (None, 0), "{range:?} {size}");
            for stop in 1..4 {
                let before: Vec<Page> = found.iter().take(stop).cloned().collect();
                let (after, error) = pages(&client, &collection, before.last().unwrap().place.clone()).await;
                let both: BTreeSet<String> = set(&before).union(&set(&after)).cloned().collect();
                assert_eq!((error, both), (None, wanted(COUNT)), "{range:?} {size} {stop}");
            }
        }
    }
}

#[tokio::test]
async fn a_url_may_be_anything_of_a_server() {
    let (server, _) = sim(Trap::Nothing).await;
    let urls = [
        "",
        "taxii2",
        "taxii2/",
        "root/",
        "root/collections/",
        &format!("root/collections/{ID}"),
        &format!("root/collections/{ID}/objects/?limit=3"),
    ];
    for url in urls {
        let client = connected(server.at(url)).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let found = client.collections().await.unwrap();
        let named: Vec<&str> = found.iter().map(|collection| collection.id.as_str()).collect();
        assert_eq!((client.version(), named), (Version::V21, vec![ID]), "{url}");
        assert_eq!(found[0].root, server.at("root/"), "{url}");
    }
    for (url, version) in [("nowhere/", None), ("taxii2/", Some(Version::V11))] {
        let mut endpoint = crate::source::Endpoint::new(server.at(url));
        endpoint.version = version;
        let error = crate::source::Client::connect(endpoint, super::quick()).await.unwrap_err();
        assert!(matches!(error, SourceError::NotTaxii { .. } | SourceError::NotFound { .. }), "{url}: {error}");
    }
}

#[tokio::test]
async fn media_types_and_slashes_are_to_the_servers_taste() {
    // The only text of `Accept` that is taken, whether paths end in a slash.
    let cases = [
        ("application/taxii+json;version=2.1", true),
        ("application/taxii+json; version=2.1", true),
        ("application/taxii+json", false),
        ("application/json", true),
        ("*/*", false),
    ];
    for (accept, slash) in cases {
        let sim = Sim::new(Trap::Nothing);
        let server = Served::new(move |asked, _| {
            if asked.place().ends_with('/') != slash {
                Reply::new(404, "text/html", "<h1>not here</h1>")
            } else if asked.header("accept") != accept {
                Reply::new(406, "text/plain", "no")
            } else {
                sim.answer(asked)
            }
        })
        .await;
        let client = connected(server.at("root/")).await.unwrap_or_else(|error| panic!("{accept} {slash}: {error}"));
        let collection = client.collection("things").await.unwrap();
        let (all, error) = pages(&client, &collection, Place::start()).await;
        assert_eq!((error, set(&all)), (None, wanted(COUNT)), "{accept} {slash}");
    }
}

#[tokio::test]
async fn empty_collections_are_no_errors() {
    let answers = ["{}", "{\"more\":false}", "{\"objects\":[]}", "{\"objects\":[],\"more\":true}"];
    for answer in answers {
        let sim = Sim::new(Trap::Nothing);
        let server = Served::new(move |asked, _| match asked.place().contains("/objects") {
            true => json(answer.to_owned()),
            false => sim.answer(asked),
        })
        .await;
        let client = connected(server.at("root/")).await.unwrap();
        let at = Timestamp::parse("2024-01-01").unwrap();
        let (all, error) = pages(&client, &client.collection(ID).await.unwrap(), Place::since(at)).await;
        assert_eq!((error, texts(&all).len()), (None, 0), "{answer}");
        assert_eq!(all.last().unwrap().place.added_after(), Some(at), "the place stays");
    }
    let sim = Sim::new(Trap::Nothing);
    let server = Served::new(move |asked, _| match asked.place().contains("/objects") {
        true => Reply::new(404, "application/json", "{}"),
        false => sim.answer(asked),
    })
    .await;
    let client = connected(server.at("root/")).await.unwrap();
    let (all, error) = pages(&client, &client.collection(ID).await.unwrap(), Place::start()).await;
    assert_eq!((error, texts(&all).len()), (None, 0));
    assert!(warnings(&all).contains("404"));
}

#[tokio::test]
async fn a_look_takes_no_more_than_it_needs() {
    let (server, sim) = sim(Trap::Nothing).await;
    let client = connected(server.at("root/")).await.unwrap();
    let collection = client.collection(ID).await.unwrap();
    let look = client.preview(&collection, 4).await.unwrap();
    assert_eq!((look.objects.len(), look.more, *sim.requests.lock().unwrap()), (4, true, 1));
    let look = client.preview(&collection, 1_000).await.unwrap();
    assert_eq!((look.objects.len(), look.more), (COUNT, false));
    let kept: Collection = serde_json::from_str(&serde_json::to_string(&collection).unwrap()).unwrap();
    assert_eq!(kept, collection);
    let error = client.collection("Other").await.unwrap_err();
    assert!(error.to_string().contains("it has `Things` (0000"), "{error}");
}

#[tokio::test]
async fn a_place_of_another_protocol_is_refused() {
    let (server, _) = sim(Trap::Nothing).await;
    let client = connected(server.at("root/")).await.unwrap();
    let collection = client.collection(ID).await.unwrap();
    let place: Place = serde_json::from_str(r#"{"form":1,"taxii":"1.1","after":"2024-01-01T00:00:00Z"}"#).unwrap();
    let error = client.pages(&collection, place).err().unwrap();
    assert!(error.to_string().contains("made over TAXII 1.1"), "{error}");
}
