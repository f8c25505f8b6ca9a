//! Relationships in collections: complete or not at all (design §4, spec/xsoar-taxii2-server.md §5), and the numbered pages of
//! TAXII 2.0.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use taxiway::feed::api::{FeedError, Filters, ItemRange, PageRequest, Shape};
use taxiway::feed::collection::{CollectionSpec, Relationships};
use taxiway::model::kind::StixType;
use taxiway::render::{ExtensionFields, Profile, StixVersion};
use taxiway::store::Store;

use crate::support::{OneCollection, by_id, import, import_text, indicator, spec, temp_store};

fn edge(id: &str, source: (&str, &str), name: &str, target: (&str, &str), revoked: bool) -> Value {
    json!({
        "id": id, "entityA": source.1, "entityAType": source.0, "entityAFamily": "Indicator", "entityB": target.1,
        "entityBType": target.0, "entityBFamily": "Indicator", "name": name, "type": "IndicatorToIndicator",
        "CustomFields": {"revoked": revoked}, "createdInSystem": "2024-01-03T00:00:00Z", "modified": "2024-01-04T00:00:00Z",
    })
}

fn sample(store: &Store) {
    import(
        store,
        &[
            indicator("IP", "192.0.2.1", 3, &["seen"]),
            indicator("IP", "192.0.2.2", 3, &[]),
            indicator("Domain", "bad.example.com", 3, &["seen"]),
            indicator("Malware", "Stealer", 3, &[]),
            edge("1", ("IP", "192.0.2.1"), "related to", ("IP", "192.0.2.2"), false),
            edge("2", ("IP", "192.0.2.1"), "resolved-from", ("Domain", "bad.example.com"), false),
            edge("3", ("Malware", "Stealer"), "communicates-with", ("Domain", "bad.example.com"), true),
        ],
    );
}

/// The relationships among objects, as `source type>target type`, each after both of its ends.
fn edges(objects: &[Value]) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    let mut found = BTreeSet::new();
    for object in objects {
        if object["type"] == "relationship" {
            let end = |key: &str| object[key].as_str().unwrap();
            for key in ["source_ref", "target_ref"] {
                assert!(held.contains(end(key)), "{key} of {object} was not served before it");
            }
            let kind = |key: &str| end(key).split("--").next().unwrap().to_owned();
            found.insert(format!("{}>{}", kind("source_ref"), kind("target_ref")));
        }
        held.insert(object["id"].as_str().unwrap().to_owned());
    }
    found
}

#[test]
fn a_relationship_needs_both_ends_in_the_collection() {
    let temp = temp_store();
    sample(&temp.store);
    let with = |query: &str, relationships: Relationships| CollectionSpec { relationships, ..spec("c", query) };
    let all = Relationships::default();
    let left_out = Relationships { left_out: true, ..all };
    let unrevoked = Relationships { revoked: Some(false), ..all };
    let cases: &[(CollectionSpec, &[&str])] = &[
        (with("", all), &["ipv4-addr>ipv4-addr", "ipv4-addr>domain-name", "malware>domain-name"]),
        (with("", unrevoked), &["ipv4-addr>ipv4-addr", "ipv4-addr>domain-name"]),
        (with("", left_out), &[]),
        (with("type:IP", all), &["ipv4-addr>ipv4-addr"]),
        (with("tags:seen", all), &["ipv4-addr>domain-name"]),
        (with("type:Malware", all), &[]),
        (
            with("type:(IP Domain) and firstSeen:\"\" and modified:<\"1 days ago\"", all),
            &["ipv4-addr>ipv4-addr", "ipv4-addr>domain-name"],
        ),
        (with("modified:>\"1 days ago\"", all), &[]),
        (
            CollectionSpec {
                indicator_types: [StixType::Ipv4Addr].into_iter().collect(),
                ..with("type:(IP Domain)", all)
            },
            &["indicator>indicator", "indicator>domain-name"],
        ),
    ];
    for (spec, expected) in cases {
        let feed = OneCollection::new(&temp.store, spec);
        for limit in [Some(1), Some(2), Some(7), None] {
            let objects = feed.walk(Shape::Objects, &Filters::default(), limit);
            let expected: BTreeSet<String> = expected.iter().map(|edge| (*edge).to_owned()).collect();
            assert_eq!(edges(&objects), expected, "{} {limit:?}", spec.query.as_str());
        }
        let listed = feed.walk(Shape::Manifest, &Filters::default(), Some(2));
        let objects = feed.walk(Shape::Objects, &Filters::default(), None);
        assert_eq!(
            by_id(&listed).into_keys().collect::<Vec<_>>(),
            by_id(&objects).into_keys().collect::<Vec<_>>(),
            "the manifest lists what objects serves"
        );
        assert_eq!(feed.feed.count_blocking(&feed.collection).unwrap(), objects.len() as u64);
    }
}

#[test]
fn filters_take_relationships_as_any_object() {
    let temp = temp_store();
    sample(&temp.store);
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let of_type = Filters { types: vec!["relationship".to_owned()], ..Filters::default() };
    let found = feed.walk(Shape::Objects, &of_type, Some(1));
    assert_eq!(found.len(), 3);
    for object in &found {
        let id = object["id"].as_str().unwrap().to_owned();
        let of_id = Filters { ids: vec![id.clone()], ..Filters::default() };
        assert_eq!(feed.walk(Shape::Objects, &of_id, None), std::slice::from_ref(object));
        let request = PageRequest { object: Some(id.clone()), ..PageRequest::default() };
        assert_eq!(feed.request(Shape::Objects, request).unwrap().objects, std::slice::from_ref(object));
        // Where an end is missing, so is the relationship.
        let ips = OneCollection::new(&temp.store, &spec("ips", "type:IP"));
        let request = PageRequest { object: Some(id), ..PageRequest::default() };
        let answer = ips.request(Shape::Objects, request);
        match object["relationship_type"].as_str() {
            Some("related-to") => assert_eq!(answer.unwrap().objects, std::slice::from_ref(object)),
            _ => assert!(matches!(answer, Err(FeedError::UnknownObject { .. })), "{answer:?}"),
        }
    }
}

/// A client that goes on by date gets the relationships of an object that only now comes into its collection.
#[test]
fn an_end_that_comes_later_brings_its_relationships() {
    let temp = temp_store();
    sample(&temp.store);
    let feed = OneCollection::new(&temp.store, &spec("seen", "tags:seen"));
    let before = feed.page(None, None, None);
    assert_eq!(edges(&before.objects).len(), 1);
    let mut late = indicator("IP", "192.0.2.2", 3, &["seen"]);
    late["modified"] = "2024-06-01T00:00:00Z".into();
    import(&temp.store, &[late]);
    let after = feed.page(before.last, None, None);
    let held: Vec<Value> = before.objects.iter().chain(&after.objects).cloned().collect();
    assert_eq!(edges(&held), BTreeSet::from(["ipv4-addr>ipv4-addr".to_owned(), "ipv4-addr>domain-name".to_owned()]));
    let fresh = feed.walk(Shape::Objects, &Filters::default(), Some(1));
    assert_eq!(edges(&fresh).len(), 2);
}

/// Relationships of native objects, and between both kinds.
#[test]
fn native_relationships_need_their_ends_as_well() {
    let temp = temp_store();
    sample(&temp.store);
    let id = |stix_type: &str, number: u8| format!("{stix_type}--00000000-0000-4000-8000-{number:012}");
    let dates = json!({"created": "2024-01-01T00:00:00.000Z", "modified": "2024-01-01T00:00:00.000Z"});
    let object = |stix_type: &str, number: u8, more: Value| {
        let mut object = json!({"type": stix_type, "spec_version": "2.1", "id": id(stix_type, number)});
        for members in [&dates, &more] {
            members.as_object().unwrap().iter().for_each(|(key, value)| object[key] = value.clone());
        }
        object
    };
    let relate = |number: u8, source: &str, target: &str| {
        object("relationship", number, json!({"relationship_type": "uses", "source_ref": source, "target_ref": target}))
    };
    let all = OneCollection::new(&temp.store, &spec("all", "type:IP"));
    let ip = by_id(&all.walk(Shape::Objects, &Filters::default(), None))
        .into_keys()
        .find(|id| id.starts_with("ipv4"))
        .unwrap();
    let objects = [
        relate(1, &id("campaign", 2), &id("tool", 3)),
        object("campaign", 2, json!({"name": "c"})),
        object("tool", 3, json!({"name": "t"})),
        relate(4, &id("campaign", 2), &ip),
        relate(5, &id("campaign", 2), &id("tool", 99)),
    ];
    let bundle = json!({"type": "bundle", "id": id("bundle", 9), "objects": objects});
    import_text(&temp.store, "bundle.json", &bundle.to_string());
    let feed = OneCollection::new(&temp.store, &spec("all", ""));
    let found = edges(&feed.walk(Shape::Objects, &Filters::default(), Some(2)));
    assert!(found.contains("campaign>tool") && found.contains("campaign>ipv4-addr"), "{found:?}");
    assert_eq!(found.len(), 5);
    // Served as `indicator`, the address is no longer what the native relationship names.
    let every = StixType::ALL.iter().copied().collect();
    let feed = feed.other(&CollectionSpec { indicator_types: every, ..spec("all", "") });
    let found = edges(&feed.walk(Shape::Objects, &Filters::default(), None));
    assert!(!found.iter().any(|edge| edge.starts_with("campaign>i")), "{found:?}");
    // 2.1 objects are none of 2.0.
    let request = PageRequest { version: StixVersion::V20, ..PageRequest::default() };
    let page = feed.request(Shape::Objects, request).unwrap();
    assert!(page.objects.iter().all(|object| object["type"] != "campaign" && object["spec_version"].is_null()));
}

/// TAXII 2.0 §3.4: pages by number, with the number of all items.
#[test]
fn pages_by_number_give_everything_once() {
    let temp = temp_store();
    sample(&temp.store);
    for (profile, extensions) in [(Profile::Standard, None), (Profile::Xsoar, Some(ExtensionFields::All))] {
        let spec = CollectionSpec { profile: Some(profile), extension_fields: extensions, ..spec("all", "") };
        let feed = OneCollection::new(&temp.store, &spec);
        let range = |first: u64, count: u64| PageRequest {
            version: StixVersion::V20,
            range: Some(ItemRange { first, count }),
            wants_total: true,
            ..PageRequest::default()
        };
        let whole = feed.request(Shape::Objects, range(0, 1_000)).unwrap().objects;
        assert!(whole.len() >= 6, "{}", whole.len());
        edges(&whole);
        for count in [1, 2, 5, 1_000] {
            for shape in [Shape::Objects, Shape::Manifest] {
                let mut ids = Vec::new();
                while (ids.len() as u64) < whole.len() as u64 {
                    let page = feed.request(shape, range(ids.len() as u64, count)).unwrap();
                    assert!(page.objects.len() as u64 <= count && !page.objects.is_empty() && page.next.is_none());
                    ids.extend(page.objects.iter().map(|object| object["id"].clone()));
                    assert_eq!(page.more_by_number, (ids.len() < whole.len()));
                    assert_eq!(page.total, Some(whole.len() as u64));
                }
                assert_eq!(ids, whole.iter().map(|object| object["id"].clone()).collect::<Vec<_>>());
            }
        }
        let behind = feed.request(Shape::Objects, range(whole.len() as u64, 1));
        assert!(matches!(behind, Err(FeedError::BehindTheEnd { total }) if total == whole.len() as u64), "{behind:?}");
    }
}

/// Definitions come once, before what is served with them, and only where they are wanted.
#[test]
fn definitions_come_first() {
    let temp = temp_store();
    let mut marked = indicator("IP", "192.0.2.1", 3, &[]);
    marked["CustomFields"]["trafficlightprotocol"] = "AMBER".into();
    import(
        &temp.store,
        &[marked, indicator("URL", "http://example.com/", 1, &[]), indicator("IP", "192.0.2.2", 1, &[])],
    );
    let kinds = |profile, extension_fields: Option<ExtensionFields>| {
        let spec = CollectionSpec { profile: Some(profile), extension_fields, ..spec("all", "") };
        let objects = OneCollection::new(&temp.store, &spec).walk(Shape::Objects, &Filters::default(), Some(1));
        let text = objects.iter().map(Value::to_string).collect::<Vec<_>>();
        let mut defined = BTreeSet::new();
        for (object, text) in objects.iter().zip(&text) {
            let id = object["id"].as_str().unwrap();
            if id.contains("-definition--") {
                assert!(defined.insert(id.to_owned()), "{id} came twice");
            }
            for word in text.split('"').filter(|word| word.contains("-definition--") && word.len() > 50) {
                assert!(defined.contains(word) || word == id, "{word} was not defined before {object}");
            }
        }
        objects.iter().map(|object| object["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let count = |kinds: &[String], wanted: &str| kinds.iter().filter(|kind| *kind == wanted).count();
    let plain = kinds(Profile::Standard, None);
    assert_eq!((count(&plain, "marking-definition"), count(&plain, "extension-definition")), (1, 0), "{plain:?}");
    let extended = kinds(Profile::Standard, Some(ExtensionFields::All));
    assert_eq!(
        (count(&extended, "marking-definition"), count(&extended, "extension-definition")),
        (1, 2),
        "{extended:?}"
    );
    let original = kinds(Profile::Xsoar, Some(ExtensionFields::All));
    assert_eq!(
        (count(&original, "marking-definition"), count(&original, "extension-definition")),
        (0, 2),
        "{original:?}"
    );
}
