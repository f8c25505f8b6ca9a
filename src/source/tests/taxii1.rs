//! TAXII 1.0 and 1.1: messages, parts, bad news in status 200.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Asked, Reply, Served, connected, pages, quick, texts, warnings};
use crate::model::time::Timestamp;
use crate::source::{Client, Endpoint, Options, Page, Place, SourceError, Version};

const NS_10: &str = "http://taxii.mitre.org/messages/taxii_xml_binding-1";
const NS_11: &str = "http://taxii.mitre.org/messages/taxii_xml_binding-1.1";

fn xml(body: impl Into<String>) -> Reply {
    Reply::new(200, "application/xml", body.into()).with("X-TAXII-Content-Type", "urn:taxii.mitre.org:message:xml:1.1")
}

fn status(kind: &str, detail: &str) -> Reply {
    xml(format!(
        "<t:Status_Message xmlns:t=\"{NS_11}\" message_id=\"1\" in_response_to=\"2\" status_type=\"{kind}\"><t:Status_Detail>{detail}</t:Status_Detail><t:Message>so it is</t:Message></t:Status_Message>"
    ))
}

/// A package with one indicator, the prefixes of which are declared on the message.
fn package(number: usize) -> String {
    format!(
        "<stix:STIX_Package id=\"ex:p{number}\" version=\"1.2\"><stix:Indicators><stix:Indicator id=\"ex:i{number}\" timestamp=\"2024-05-01T00:00:00Z\" xsi:type=\"indicator:IndicatorType\">\
         <indicator:Observable><cybox:Object><cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value>198.51.100.{number}</A:Address_Value></cybox:Properties></cybox:Object></indicator:Observable>\
         </stix:Indicator></stix:Indicators></stix:STIX_Package>"
    )
}

fn block(binding: &str, content: &str) -> String {
    format!(
        "<t:Content_Block><t:Content_Binding binding_id=\"{binding}\"/><t:Content>{content}</t:Content><t:Timestamp_Label>2024-05-02T00:00:00.000001Z</t:Timestamp_Label></t:Content_Block>\n"
    )
}

const STIX: &str = "urn:stix.mitre.org:xml:1.2";

fn poll(attributes: &str, head: &str, blocks: &str) -> Reply {
    xml(format!(
        "<?xml version=\"1.0\"?>\n<t:Poll_Response xmlns:t=\"{NS_11}\" xmlns:stix=\"http://stix.mitre.org/stix-1\" xmlns:indicator=\"http://stix.mitre.org/Indicator-2\" \
         xmlns:cybox=\"http://cybox.mitre.org/cybox-2\" xmlns:A=\"http://cybox.mitre.org/objects#AddressObject-2\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         message_id=\"1\" in_response_to=\"2\" collection_name=\"feed\" {attributes}>{head}\n{blocks}</t:Poll_Response>\n"
    ))
}

const END: &str = "<t:Inclusive_End_Timestamp>2024-05-03T00:00:00.123456+00:00</t:Inclusive_End_Timestamp>";

fn part(numbers: std::ops::Range<usize>, more: bool, number: u32) -> Reply {
    let blocks: String = numbers.map(|n| block(STIX, &package(n))).collect();
    poll(&format!("more=\"{more}\" result_id=\"r1\" result_part_number=\"{number}\""), END, &blocks)
}

/// Discovery and list of a server; polls are answered by `polled`.
async fn served(polled: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Served {
    let polls = AtomicUsize::new(0);
    Served::new(move |asked, _| {
        for (name, start) in [
            ("content-type", "application/xml"),
            ("x-taxii-content-type", "urn:taxii.mitre.org:message:xml:1."),
            ("x-taxii-accept", "urn:taxii.mitre.org:message:xml:1."),
            ("x-taxii-services", "urn:taxii.mitre.org:services:1."),
            ("x-taxii-protocol", "urn:taxii.mitre.org:protocol:http:1.0"),
        ] {
            if !asked.header(name).starts_with(start) {
                return Reply::new(400, "text/plain", format!("{name} is missing"));
            }
        }
        let binding = |kind: &str| {
            format!(
                "<t:{kind}><t:Protocol_Binding>urn:taxii.mitre.org:protocol:http:1.0</t:Protocol_Binding><t:Address>http://inside.invalid:9/poll</t:Address>\
                 <t:Message_Binding>urn:taxii.mitre.org:message:xml:1.1</t:Message_Binding></t:{kind}>"
            )
        };
        let service = |kind: &str, address: &str, rest: &str| {
            format!(
                "<t:Service_Instance service_type=\"{kind}\" service_version=\"urn:taxii.mitre.org:services:1.1\" {rest}>\
                 <t:Protocol_Binding>urn:taxii.mitre.org:protocol:http:1.0</t:Protocol_Binding><t:Address>{address}</t:Address>\
                 <t:Message_Binding>urn:taxii.mitre.org:message:xml:1.1</t:Message_Binding></t:Service_Instance>"
            )
        };
        if asked.body.contains("Discovery_Request") && asked.path == "/discovery" {
            let list = service("COLLECTION_MANAGEMENT", "manage", "");
            let off = service("COLLECTION_MANAGEMENT", "/off", "available=\"false\"");
            return xml(format!("<t:Discovery_Response xmlns:t=\"{NS_11}\" message_id=\"1\">{off}{list}</t:Discovery_Response>"));
        }
        if asked.body.contains("Collection_Information_Request") && asked.path == "/manage" {
            return xml(format!(
                "<t:Collection_Information_Response xmlns:t=\"{NS_11}\" message_id=\"1\">\
                 <t:Collection collection_name=\"feed\"><t:Description>All &amp; more</t:Description><t:Collection_Volume>7</t:Collection_Volume>\
                 <t:Content_Binding binding_id=\"{STIX}\"/>{}</t:Collection>\
                 <t:Collection collection_name=\"set\" collection_type=\"DATA_SET\"><t:Description/>{}</t:Collection>\
                 <t:Collection collection_name=\"mute\"><t:Description/></t:Collection></t:Collection_Information_Response>",
                binding("Polling_Service"),
                binding("Polling_Service")
            ));
        }
        let is_poll = asked.body.contains("Poll_Request") || asked.body.contains("Poll_Fulfillment");
        if is_poll && asked.path == "/poll" {
            return polled(asked, polls.fetch_add(1, Ordering::SeqCst));
        }
        status("UNSUPPORTED_MESSAGE", "")
    })
    .await
}

async fn fetched(
    from: Place,
    polled: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Vec<Page>, Option<SourceError>, Vec<Asked>) {
    let server = served(polled).await;
    let client = connected(server.at("discovery")).await.unwrap();
    let collection = client.collection("feed").await.unwrap();
    let (all, error) = pages(&client, &collection, from).await;
    let asked = server.asked().into_iter().filter(|asked| asked.path == "/poll").collect();
    (all, error, asked)
}

fn values(pages: &[Page]) -> BTreeSet<String> {
    let value = |text: &String| {
        serde_json::from_str::<serde_json::Value>(text).unwrap()["value"].as_str().unwrap_or("-").to_owned()
    };
    texts(pages).iter().map(value).collect()
}

fn addresses(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|n| format!("198.51.100.{n}")).collect()
}

#[tokio::test]
async fn collections_are_found_and_parts_put_together() {
    let server = served(|asked, _| match asked.body.contains("Poll_Fulfillment") {
        false => part(0..4, true, 1),
        true if asked.body.contains("result_part_number=\"2\"") => part(4..8, true, 2),
        true if asked.body.contains("result_part_number=\"3\"") => part(8..9, false, 3),
        true => status("INVALID_RESPONSE_PART", "<t:Detail name=\"MAX_PART_NUMBER\">3</t:Detail>"),
    })
    .await;
    let client = connected(server.at("discovery")).await.unwrap();
    assert_eq!(client.version(), Version::V11);
    let found = client.collections().await.unwrap();
    let facts: Vec<_> =
        found.iter().map(|c| (c.id.as_str(), c.can_read, c.is_ordered, c.volume, c.description.as_deref())).collect();
    assert_eq!(
        facts,
        [
            ("feed", true, true, Some(7), Some("All & more")),
            ("set", true, false, None, None),
            ("mute", false, true, None, None)
        ]
    );
    assert_eq!(found[0].root, server.at("poll"), "addresses of other hosts are asked for at this one");
    let (all, error) = pages(&client, &found[0], Place::start()).await;
    assert_eq!((error, values(&all)), (None, addresses(0..9)));
    let places: Vec<String> = all.iter().map(|page| serde_json::to_string(&page.place).unwrap()).collect();
    assert_eq!(places[0], r#"{"form":1,"taxii":"1.1","result":["r1",2],"until":"2024-05-03T00:00:00.123456Z"}"#);
    assert_eq!(places[2], r#"{"form":1,"taxii":"1.1","after":"2024-05-03T00:00:00.123456Z"}"#);
    // From each place on.
    for (stop, page) in all.iter().enumerate() {
        let (rest, error) = pages(&client, &found[0], page.place.clone()).await;
        assert_eq!(error, None);
        let both: BTreeSet<String> = values(&all[..=stop]).union(&values(&rest)).cloned().collect();
        assert_eq!(both, addresses(0..9), "{stop}");
    }
    let last = server.asked().into_iter().rev().find(|asked| asked.body.contains("Poll_Request")).unwrap();
    assert!(
        last.body.contains("<t:Exclusive_Begin_Timestamp>2024-05-03T00:00:00.123456Z</t:Exclusive_Begin_Timestamp>"),
        "{}",
        last.body
    );
    assert!(last.body.contains("collection_name=\"feed\"") && last.body.contains("allow_asynch=\"false\""));
}

#[tokio::test]
async fn parts_that_are_gone_are_asked_for_anew() {
    let place: Place = serde_json::from_str(
        r#"{"form":1,"taxii":"1.1","after":"2024-05-01T00:00:00Z","result":["old",7],"until":"2024-05-02T00:00:00Z"}"#,
    )
    .unwrap();
    let (all, error, asked) = fetched(place, |asked, _| match asked.body.contains("\"old\"") {
        true => status("NOT_FOUND", ""),
        false => part(0..3, false, 1),
    })
    .await;
    assert_eq!((error, values(&all), asked.len()), (None, addresses(0..3), 2));
    assert!(asked[1].body.contains("2024-05-01T00:00:00.000000Z"), "from where the lost result began");
    // `more`, and then nothing more: what was there is all.
    let (all, error, _) = fetched(Place::start(), |_, turn| match turn {
        0 => part(0..3, true, 1),
        _ => status("INVALID_RESPONSE_PART", "<t:Detail name=\"MAX_PART_NUMBER\">1</t:Detail>"),
    })
    .await;
    assert_eq!((error, values(&all)), (None, addresses(0..3)));
    assert_eq!(all.last().unwrap().place.added_after().unwrap().to_string(), "2024-05-03T00:00:00.123456Z");
}

#[tokio::test]
async fn results_in_the_making_are_waited_for() {
    let pending = "<t:Detail name=\"ESTIMATED_WAIT\">0</t:Detail><t:Detail name=\"RESULT_ID\">late</t:Detail>";
    let (all, error, asked) = fetched(Place::start(), move |asked, turn| match turn {
        0 | 1 => status("PENDING", pending),
        _ if asked.body.contains("result_id=\"late\" result_part_number=\"1\"") => part(0..2, false, 1),
        _ => status("FAILURE", ""),
    })
    .await;
    assert_eq!((error, values(&all), asked.len()), (None, addresses(0..2), 3));
}

#[tokio::test]
async fn every_status_says_what_to_do() {
    let cases = [
        ("BAD_MESSAGE", 1, "does not understand our message"),
        ("DENIED", 1, "refuses (DENIED: so it is"),
        ("FAILURE", 3, "try again later"),
        ("NETWORK_ERROR", 3, "try again later"),
        ("NOT_FOUND", 1, "look at the collections anew"),
        ("POLLING_UNSUPPORTED", 1, "cannot be polled"),
        ("UNAUTHORIZED", 1, "does not accept who we are (UNAUTHORIZED"),
        ("UNSUPPORTED_MESSAGE", 1, "the other one (1.0 or 1.1)"),
        ("UNSUPPORTED_CONTENT", 1, "in no form"),
        ("UNSUPPORTED_PROTOCOL", 1, "the other one (1.0 or 1.1)"),
        ("ASYNCHRONOUS_POLL_ERROR", 1, "fetch again"),
        ("SOMETHING_ELSE", 1, "ask its operator what that means"),
        ("SUCCESS", 1, "and no content"),
        ("PENDING", 1, "and no content"),
    ];
    for (kind, requests, expected) in cases {
        let (all, error, asked) = fetched(Place::start(), move |_, _| status(kind, "")).await;
        let error = error.unwrap().to_string();
        assert!(all.is_empty() && error.contains(expected), "{kind}: {error}");
        assert_eq!(asked.len(), requests, "{kind}");
    }
    let (all, error, asked) = fetched(Place::start(), |_, turn| match turn {
        0 => status("RETRY", "<t:Detail name=\"ESTIMATED_WAIT\">0</t:Detail>"),
        1 => status("FAILURE", ""),
        _ => part(0..1, false, 1),
    })
    .await;
    assert_eq!((error, values(&all), asked.len()), (None, addresses(0..1), 3));
    let (_, error, _) =
        fetched(Place::start(), |_, _| status("RETRY", "<t:Detail name=\"ESTIMATED_WAIT\">900</t:Detail>")).await;
    assert_eq!(error.unwrap().wait().map(|wait| wait.as_secs()), Some(900));
}

#[tokio::test]
async fn broken_answers_are_fetched_again_and_never_half_taken() {
    for has_length in [true, false] {
        let (all, error, asked) = fetched(Place::start(), move |_, turn| match turn {
            0 => part(0..5, false, 1).cut(1_500, has_length),
            _ => part(0..5, false, 1),
        })
        .await;
        assert_eq!((error, values(&all), texts(&all).len(), asked.len()), (None, addresses(0..5), 5, 2));
    }
    let cases = [
        (Reply::new(200, "text/html", "<html><body>x</body></html>"), "answers with HTML"),
        (Reply::new(200, "application/json", "{}"), "answers with JSON; it may speak TAXII 2.x"),
        (xml("<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>"), "is no poll response"),
        (xml(format!("<t:Discovery_Response xmlns:t=\"{NS_11}\"/>")), "is no poll response"),
    ];
    for (reply, expected) in cases {
        let (_, error, _) = fetched(Place::start(), move |_, _| reply.clone()).await;
        let error = error.unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn bad_blocks_are_left_out_and_the_rest_kept() {
    let escaped = package(3)
        .replace("<stix:STIX_Package", "<stix:STIX_Package xmlns:stix=\"http://stix.mitre.org/stix-1\" xmlns:indicator=\"http://stix.mitre.org/Indicator-2\" xmlns:cybox=\"http://cybox.mitre.org/cybox-2\" xmlns:A=\"http://cybox.mitre.org/objects#AddressObject-2\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"");
    use base64::Engine;
    let packed = base64::engine::general_purpose::STANDARD.encode(escaped.replace("100.3", "100.5"));
    let blocks = [
        block(STIX, &package(0)),
        block(
            "http://www.w3.org/2001/04/xmlenc#Element",
            "<e:EncryptedData xmlns:e='http://www.w3.org/2001/04/xmlenc#'/>",
        ),
        block("urn:oasis:names:tc:emergency:cap:1.1", "<c:alert xmlns:c='urn:oasis:names:tc:emergency:cap:1.1'/>"),
        block(STIX, "<stix:STIX_Package><stix:Indicators></stix:STIX_Package>"),
        block(STIX, &package(1)),
        block(STIX, &escaped.replace('&', "&amp;").replace('<', "&lt;")),
        block(STIX, &format!("<![CDATA[{}]]>", escaped.replace("100.3", "100.4"))),
        block(STIX, &packed),
        block(
            "application/stix+json",
            "{\"type\":\"bundle\",\"objects\":[{\"type\":\"indicator\",\"value\":\"two\"}]}",
        ),
        block(STIX, "some words"),
        block(STIX, ""),
        block(STIX, "&lt;broken"),
        block(STIX, &package(2)),
    ];
    let body = blocks.concat();
    let (all, error, _) = fetched(Place::start(), move |_, _| poll("more=\"false\"", END, &body)).await;
    assert_eq!(error, None);
    let mut wanted = addresses(0..6);
    wanted.insert("two".to_owned());
    assert_eq!(values(&all), wanted);
    let facts = &all[0].facts;
    let skipped: Vec<(&str, u64)> = facts.skipped.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(
        skipped,
        [
            ("content `alert`", 1),
            ("content that is neither STIX nor XML", 1),
            ("empty content", 1),
            ("encrypted content", 1)
        ]
    );
    let reasons: Vec<String> = facts.rejections.iter().map(ToString::to_string).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].starts_with("line 6 ") && reasons[0].contains("broken"), "{reasons:?}");
    assert!(reasons[1].contains("in the text of block 12"), "{reasons:?}");
}

#[tokio::test]
async fn the_place_is_what_the_server_says_it_is() {
    // Without an end the newest label counts, then the server's date, then nothing moves.
    let cases = [
        (END, block(STIX, &package(1)), None, Some("2024-05-03T00:00:00.123456Z")),
        ("", block(STIX, &package(1)), None, Some("2024-05-02T00:00:00.000001Z")),
        ("", String::new(), Some("Wed, 01 May 2024 08:30:00 GMT"), Some("2024-05-01T08:")),
        ("", String::new(), None, None),
    ];
    for (head, blocks, date, expected) in cases {
        let (all, error, _) = fetched(Place::start(), move |_, _| {
            let reply = poll("more=\"false\"", head, &blocks);
            if let Some(date) = date { reply.with("Date", date) } else { reply }
        })
        .await;
        assert_eq!(error, None);
        let place = all.last().unwrap().place.added_after().map(|at| at.to_string());
        let fits = match (place.as_deref(), expected) {
            (Some(place), Some(expected)) => place.starts_with(expected),
            (place, expected) => place == expected,
        };
        assert!(fits, "{place:?} {expected:?}");
        assert_eq!(head.is_empty(), warnings(&all).contains("no Inclusive_End_Timestamp"));
    }
}

#[tokio::test]
async fn a_poll_service_alone_takes_any_name() {
    let server = served(|asked, _| match asked.body.contains("collection_name=\"a&amp;b\"") {
        true => part(0..2, false, 1),
        false => status("NOT_FOUND", ""),
    })
    .await;
    let mut endpoint = Endpoint::new(server.at("poll"));
    endpoint.subscription = Some("sub<1".to_owned());
    let client = Client::connect(endpoint, quick()).await.unwrap();
    assert_eq!(client.collections().await.unwrap(), []);
    let collection = client.collection("a&b").await.unwrap();
    let (all, error) = pages(&client, &collection, Place::start()).await;
    assert_eq!((error, values(&all)), (None, addresses(0..2)));
    let asked = server.asked().pop().unwrap();
    assert!(
        asked.body.contains("<t:Subscription_ID>sub&lt;1</t:Subscription_ID>")
            && !asked.body.contains("Poll_Parameters")
    );
    // A management service alone lists what it has.
    let client = connected(server.at("manage")).await.unwrap();
    assert_eq!(client.collections().await.unwrap().len(), 3);
}

#[tokio::test]
async fn data_sets_are_fetched_whole() {
    let server = served(|asked, _| {
        assert!(!asked.body.contains("Timestamp"), "{}", asked.body);
        poll("more=\"false\"", "", &block(STIX, &package(1)))
    })
    .await;
    let client = connected(server.at("discovery")).await.unwrap();
    let collection = client.collection("set").await.unwrap();
    let at = Timestamp::parse("2024-05-01").unwrap();
    let (all, error) = pages(&client, &collection, Place::since(at)).await;
    assert_eq!((error, values(&all)), (None, addresses(1..2)));
    assert_eq!(all[0].place.added_after(), Some(at));
}

#[tokio::test]
async fn feeds_of_1_0_are_polled_in_ranges_of_time() {
    let server = Served::new(|asked, _| {
        let date = "Wed, 01 May 2024 11:00:00 GMT";
        let reply = |body: String| xml(body).with("Date", date);
        if asked.header("x-taxii-services") != "urn:taxii.mitre.org:services:1.0" {
            return status("UNSUPPORTED_MESSAGE", "");
        }
        if asked.body.contains("Discovery_Request") {
            return reply(format!(
                "<Discovery_Response xmlns=\"{NS_10}\" message_id=\"1\"><Service_Instance service_type=\"FEED_MANAGEMENT\" service_version=\"urn:taxii.mitre.org:services:1.0\">\
                 <Protocol_Binding>urn:taxii.mitre.org:protocol:http:1.0</Protocol_Binding><Address>/feeds</Address>\
                 <Message_Binding>urn:taxii.mitre.org:message:xml:1.0</Message_Binding></Service_Instance></Discovery_Response>"
            ));
        }
        if asked.body.contains("Feed_Information_Request") {
            return reply(format!(
                "<Feed_Information_Response xmlns=\"{NS_10}\" message_id=\"1\"><Feed feed_name=\"f\"><Description>d</Description><Content_Binding>{STIX}</Content_Binding>\
                 <Polling_Service><Protocol_Binding>urn:taxii.mitre.org:protocol:http:1.0</Protocol_Binding><Address>/poll</Address>\
                 <Message_Binding>urn:taxii.mitre.org:message:xml:1.0</Message_Binding></Polling_Service></Feed></Feed_Information_Response>"
            ));
        }
        let inside = |name: &str| {
            let start = asked.body.find(&format!("<t:{name}>"))? + name.len() + 4;
            asked.body.get(start..start + 27).map(str::to_owned)
        };
        let begin = inside("Exclusive_Begin_Timestamp").unwrap();
        let end = inside("Inclusive_End_Timestamp").unwrap_or_else(|| "2024-05-01T12:00:00Z".to_owned());
        let address = 10 + begin[8..10].parse::<usize>().unwrap();
        reply(format!(
            "<Poll_Response xmlns=\"{NS_10}\" feed_name=\"f\" message_id=\"1\" in_response_to=\"1\"><Inclusive_Begin_Timestamp>{begin}</Inclusive_Begin_Timestamp>\
             <Inclusive_End_Timestamp>{end}</Inclusive_End_Timestamp><Content_Block><Content_Binding>{STIX}</Content_Binding><Content>\
             <s:STIX_Package xmlns:s='http://stix.mitre.org/stix-1' xmlns:stix='http://stix.mitre.org/stix-1' xmlns:indicator='http://stix.mitre.org/Indicator-2' \
             xmlns:cybox='http://cybox.mitre.org/cybox-2' xmlns:A='http://cybox.mitre.org/objects#AddressObject-2' xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'>{}</s:STIX_Package>\
             </Content></Content_Block></Poll_Response>",
            package(address).replace("<stix:STIX_Package", "<stix:Related_Package").replace("</stix:STIX_Package", "</stix:Related_Package")
        ))
    })
    .await;
    let options = Options { poll_window: Some(std::time::Duration::from_secs(86_400)), ..quick() };
    let client = Client::connect(Endpoint::new(server.at("taxii-discovery-service")), options).await.unwrap();
    assert_eq!(client.version(), Version::V10);
    let collection = client.collection("f").await.unwrap();
    let from = Place::since(Timestamp::parse("2024-04-28T12:00:00Z").unwrap());
    let (all, error) = pages(&client, &collection, from).await;
    assert_eq!(error, None);
    let found: Vec<String> = values(&all).into_iter().collect();
    assert_eq!(found, ["198.51.100.38", "198.51.100.39", "198.51.100.40"]);
    assert_eq!(all.last().unwrap().place.added_after().unwrap().to_string(), "2024-05-01T12:00:00.000000Z");
}
