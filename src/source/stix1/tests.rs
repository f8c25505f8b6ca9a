//! Packages of all versions, in the three shapes, and what is made of them.

use proptest::prelude::*;

use super::Reader;
use crate::source::body::Body;
use crate::source::page::Facts;

const NAMESPACES: &str = r#"xmlns:stix="http://stix.mitre.org/stix-1" xmlns:stixCommon="http://stix.mitre.org/common-1" xmlns:ind="http://stix.mitre.org/Indicator-2"
 xmlns:cybox="http://cybox.mitre.org/cybox-2" xmlns:cyboxCommon="http://cybox.mitre.org/common-2" xmlns:marking="http://data-marking.mitre.org/Marking-1"
 xmlns:tlp="http://data-marking.mitre.org/extensions/MarkingStructure#TLP-1" xmlns:A="http://cybox.mitre.org/objects#AddressObject-2"
 xmlns:D="http://cybox.mitre.org/objects#DomainNameObject-1" xmlns:U="http://cybox.mitre.org/objects#URIObject-2" xmlns:L="http://cybox.mitre.org/objects#LinkObject-1"
 xmlns:H="http://cybox.mitre.org/objects#HostnameObject-1" xmlns:F="http://cybox.mitre.org/objects#FileObject-2" xmlns:W="http://cybox.mitre.org/objects#WinExecutableFileObject-2"
 xmlns:E="http://cybox.mitre.org/objects#EmailMessageObject-2" xmlns:R="http://cybox.mitre.org/objects#WinRegistryKeyObject-2" xmlns:S="http://cybox.mitre.org/objects#SocketAddressObject-1"
 xmlns:N="http://cybox.mitre.org/objects#NetworkConnectionObject-2" xmlns:M="http://cybox.mitre.org/objects#MutexObject-2" xmlns:Q="http://cybox.mitre.org/objects#DNSQueryObject-2"
 xmlns:own="urn:own" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance""#;

fn package(inner: &str) -> String {
    format!(
        "<stix:STIX_Package {NAMESPACES} id=\"ex:p\" version=\"1.1.1\" timestamp=\"2024-05-01T08:00:00+02:00\">{inner}</stix:STIX_Package>"
    )
}

fn indicator(inner: &str) -> String {
    package(&format!(
        "<stix:Indicators><stix:Indicator id=\"ex:i\" xsi:type=\"ind:IndicatorType\">{inner}</stix:Indicator></stix:Indicators>"
    ))
}

fn object(properties: &str) -> String {
    format!("<cybox:Object>{properties}</cybox:Object>")
}

fn address(text: &str) -> String {
    format!(
        "<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value>{text}</A:Address_Value></cybox:Properties>"
    )
}

/// Documents and facts of a text.
fn read(text: &str) -> (Vec<serde_json::Value>, Facts) {
    read_bytes(text.as_bytes().to_vec())
}

fn read_bytes(bytes: Vec<u8>) -> (Vec<serde_json::Value>, Facts) {
    let mut reader = Reader::new(Body::of(bytes.into()), 200_000).unwrap();
    let (mut found, mut facts) = (Vec::new(), Facts::default());
    while let Some(objects) = reader.next(&mut facts).unwrap() {
        found.extend(objects.iter().map(|text| serde_json::from_slice(text).expect("a line of JSON")));
    }
    (found, facts)
}

/// `type value` of each document.
fn values(documents: &[serde_json::Value]) -> Vec<String> {
    documents
        .iter()
        .map(|d| format!("{} {}", d["indicator_type"].as_str().unwrap(), d["value"].as_str().unwrap()))
        .collect()
}

#[test]
fn objects_hold_values() {
    let md5 = "a".repeat(32);
    let sha256 = "b".repeat(64);
    let cases: Vec<(String, Vec<String>, &str)> = vec![
        (address("198.51.100.1"), vec!["IP 198.51.100.1".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\" category=\"cidr\"><A:Address_Value condition=\"Equals\">2001:db8::/32</A:Address_Value></cybox:Properties>".into(), vec!["IPv6CIDR 2001:db8::/32".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\" category=\"e-mail\"><A:Address_Value>a@b.example</A:Address_Value></cybox:Properties>".into(), vec!["Email a@b.example".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\" category=\"mac\"><A:Address_Value>00:11:22:33:44:55</A:Address_Value></cybox:Properties>".into(), vec![], "addresses of hardware and masks"),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\" category=\"asn\"><A:Address_Value>AS64500</A:Address_Value></cybox:Properties>".into(), vec!["ASN AS64500".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value condition=\"Equals\">192.0.2.1##comma##192.0.2.2</A:Address_Value></cybox:Properties>".into(), vec!["IP 192.0.2.1".into(), "IP 192.0.2.2".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value condition=\"Equals\" delimiter=\";\">192.0.2.1; 192.0.2.2</A:Address_Value></cybox:Properties>".into(), vec!["IP 192.0.2.1".into(), "IP 192.0.2.2".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value condition=\"Equals\" apply_condition=\"NONE\">192.0.2.1</A:Address_Value></cybox:Properties>".into(), vec![], "values that must not occur"),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value condition=\"DoesNotEqual\">192.0.2.1</A:Address_Value></cybox:Properties>".into(), vec![], "values that must not occur"),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value condition=\"InclusiveBetween\">192.0.2.8##comma##192.0.2.9</A:Address_Value></cybox:Properties>".into(), vec!["CIDR 192.0.2.8/31".into()], ""),
        ("<cybox:Properties xsi:type=\"A:AddressObjectType\"><A:Address_Value condition=\"ExclusiveBetween\">192.0.2.1##comma##192.0.2.9</A:Address_Value></cybox:Properties>".into(), vec![], "patterns"),
        ("<cybox:Properties xsi:type=\"D:DomainNameObjectType\" type=\"FQDN\"><D:Value condition=\"Equals\">evil[.]example</D:Value></cybox:Properties>".into(), vec!["Domain evil.example".into()], ""),
        ("<cybox:Properties xsi:type=\"D:DomainNameObjectType\"><D:Value condition=\"EndsWith\">evil.example</D:Value></cybox:Properties>".into(), vec![], "patterns"),
        ("<cybox:Properties xsi:type=\"U:URIObjectType\" type=\"URL\"><U:Value>hxxp://evil.example/a?b=1&amp;c=2</U:Value></cybox:Properties>".into(), vec!["URL http://evil.example/a?b=1&c=2".into()], ""),
        ("<cybox:Properties xsi:type=\"U:URIObjectType\" type=\"Domain Name\"><U:Value>a.example,b.example</U:Value></cybox:Properties>".into(), vec!["Domain a.example".into(), "Domain b.example".into()], ""),
        ("<cybox:Properties xsi:type=\"L:LinkObjectType\"><U:Value>https://l.example/</U:Value><L:URL_Label>x</L:URL_Label></cybox:Properties>".into(), vec!["URL https://l.example/".into()], ""),
        ("<cybox:Properties xsi:type=\"H:HostnameObjectType\"><H:Hostname_Value>h.example</H:Hostname_Value></cybox:Properties>".into(), vec!["Domain h.example".into()], ""),
        (format!("<cybox:Properties xsi:type=\"F:FileObjectType\"><F:File_Name>x.exe</F:File_Name><F:Hashes><cyboxCommon:Hash><cyboxCommon:Type>MD5</cyboxCommon:Type><cyboxCommon:Simple_Hash_Value>{md5}</cyboxCommon:Simple_Hash_Value></cyboxCommon:Hash><cyboxCommon:Hash><cyboxCommon:Simple_Hash_Value>{sha256}</cyboxCommon:Simple_Hash_Value></cyboxCommon:Hash></F:Hashes></cybox:Properties>"), vec![format!("File {sha256}")], ""),
        (format!("<cybox:Properties xsi:type=\"W:WindowsExecutableFileObjectType\"><F:Hashes><cyboxCommon:Hash><cyboxCommon:Simple_Hash_Value condition=\"Equals\">{md5}##comma##{sha256}##comma##xyz</cyboxCommon:Simple_Hash_Value></cyboxCommon:Hash></F:Hashes></cybox:Properties>"), vec![format!("File {sha256}")], ""),
        ("<cybox:Properties xsi:type=\"F:FileObjectType\"><F:Hashes><cyboxCommon:Hash><cyboxCommon:Type>SSDEEP</cyboxCommon:Type><cyboxCommon:Fuzzy_Hash_Value>3:ab,c:d</cyboxCommon:Fuzzy_Hash_Value></cyboxCommon:Hash></F:Hashes></cybox:Properties>".into(), vec!["ssdeep 3:ab,c:d".into()], ""),
        ("<cybox:Properties xsi:type=\"F:FileObjectType\"><F:File_Name>x</F:File_Name></cybox:Properties>".into(), vec![], "files without a hash"),
        ("<cybox:Properties xsi:type=\"E:EmailMessageObjectType\"><E:Header><E:To><E:Recipient><A:Address_Value>victim@x.example</A:Address_Value></E:Recipient></E:To><E:From category=\"e-mail\"><A:Address_Value>bad@x.example</A:Address_Value></E:From><E:X_Originating_IP><A:Address_Value>192.0.2.7</A:Address_Value></E:X_Originating_IP></E:Header></cybox:Properties>".into(), vec!["Email bad@x.example".into(), "IP 192.0.2.7".into()], ""),
        ("<cybox:Properties xsi:type=\"R:WindowsRegistryKeyObjectType\"><R:Key>Software\\X</R:Key><R:Hive>HKEY_LOCAL_MACHINE</R:Hive></cybox:Properties>".into(), vec!["Registry Key HKEY_LOCAL_MACHINE\\Software\\X".into()], ""),
        ("<cybox:Properties xsi:type=\"N:NetworkConnectionObjectType\"><N:Source_Socket_Address><S:IP_Address><A:Address_Value>10.0.0.1</A:Address_Value></S:IP_Address></N:Source_Socket_Address><N:Destination_Socket_Address><S:IP_Address><A:Address_Value>192.0.2.9</A:Address_Value></S:IP_Address></N:Destination_Socket_Address></cybox:Properties>".into(), vec!["IP 192.0.2.9".into()], ""),
        ("<cybox:Properties xsi:type=\"Q:DNSQueryObjectType\"><Q:Question><Q:QName><U:Value>q.example</U:Value></Q:QName></Q:Question></cybox:Properties>".into(), vec!["Domain q.example".into()], ""),
        ("<cybox:Properties xsi:type=\"M:MutexObjectType\"><M:Name>x</M:Name></cybox:Properties>".into(), vec![], "MutexObjectType"),
        ("<cybox:Properties xsi:type=\"own:AddressObjectType\"><A:Address_Value>192.0.2.1</A:Address_Value></cybox:Properties>".into(), vec![], "object type AddressObjectType of another vocabulary"),
        ("<cybox:Properties><A:Address_Value>192.0.2.1</A:Address_Value></cybox:Properties>".into(), vec!["IP 192.0.2.1".into()], ""),
        (format!("{}<cybox:Related_Objects><cybox:Related_Object>{}</cybox:Related_Object></cybox:Related_Objects>", address("192.0.2.1"), address("192.0.2.2")), vec!["IP 192.0.2.1".into(), "IP 192.0.2.2".into()], ""),
    ];
    for (properties, expected, skipped) in cases {
        let (documents, facts) = read(&indicator(&format!("<ind:Observable>{}</ind:Observable>", object(&properties))));
        assert_eq!(values(&documents), expected, "{properties}");
        assert!(skipped.is_empty() || facts.skipped.contains_key(skipped), "{properties}: {:?}", facts.skipped);
    }
}

#[test]
fn what_is_said_of_an_indicator_is_kept() {
    let text = package(&format!(
        "<stix:STIX_Header><stix:Title>Package</stix:Title><stix:Handling><marking:Marking><marking:Controlled_Structure>//node()</marking:Controlled_Structure>\
         <marking:Marking_Structure xsi:type=\"tlp:TLPMarkingStructureType\" color=\"AMBER\"/></marking:Marking></stix:Handling>\
         <stix:Information_Source><stixCommon:Identity><stixCommon:Name>Header Inc</stixCommon:Name></stixCommon:Identity>\
         <stixCommon:Time><cyboxCommon:Produced_Time>2024-04-01T00:00:00</cyboxCommon:Produced_Time></stixCommon:Time></stix:Information_Source></stix:STIX_Header>\
         <stix:Indicators><stix:Indicator id=\"ex:1\" timestamp=\"2024-05-02T00:00:00.5Z\" xsi:type=\"ind:IndicatorType\"><ind:Title>T &lt;1&gt;</ind:Title>\
         <ind:Type>IP Watchlist</ind:Type><ind:Type>C2</ind:Type><ind:Description>  Some\n\"words\" </ind:Description>\
         <ind:Valid_Time_Position><ind:Start_Time>2024-05-01T00:00:00Z</ind:Start_Time><ind:End_Time>2024-06-01T00:00:00Z</ind:End_Time></ind:Valid_Time_Position>\
         <ind:Observable>{a}</ind:Observable><ind:Confidence><stixCommon:Value>High</stixCommon:Value></ind:Confidence>\
         <ind:Producer><stixCommon:Identity><stixCommon:Name>Own Inc</stixCommon:Name></stixCommon:Identity></ind:Producer></stix:Indicator>\
         <stix:Indicator id=\"ex:2\"><ind:Observable>{b}</ind:Observable><ind:Handling><marking:Marking><marking:Marking_Structure color=\"RED\"/></marking:Marking></ind:Handling>\
         <ind:Confidence><stixCommon:Value>low</stixCommon:Value></ind:Confidence></stix:Indicator>\
         <stix:Indicator id=\"ex:3\" negate=\"true\"><ind:Observable>{b}</ind:Observable></stix:Indicator></stix:Indicators>\
         <stix:Observables><cybox:Observable id=\"ex:o\"><cybox:Title>Seen</cybox:Title>{c}</cybox:Observable></stix:Observables>",
        a = object(&address("192.0.2.1")),
        b = object(&address("192.0.2.2")),
        c = object(&address("192.0.2.3")),
    ));
    let (documents, facts) = read(&text);
    assert_eq!(
        documents,
        [
            serde_json::json!({
                "indicator_type": "IP", "value": "192.0.2.1", "score": 3,
                "timestamp": "2024-04-01T00:00:00.000000Z", "modified": "2024-05-02T00:00:00.500000Z",
                "firstSeen": "2024-05-01T00:00:00.000000Z", "expiration": "2024-06-01T00:00:00.000000Z",
                "CustomFields": {
                    "title": "T <1>", "description": "Some\n\"words\"", "reportedby": "Own Inc", "indicatoridentification": "ex:1",
                    "trafficlightprotocol": "amber", "confidence": 85, "tags": ["IP Watchlist", "C2"]
                }
            }),
            serde_json::json!({
                "indicator_type": "IP", "value": "192.0.2.2", "score": 2,
                "timestamp": "2024-04-01T00:00:00.000000Z", "modified": "2024-05-01T06:00:00.000000Z",
                "CustomFields": { "reportedby": "Header Inc", "indicatoridentification": "ex:2", "trafficlightprotocol": "red", "confidence": 15, "tags": [] }
            }),
            serde_json::json!({
                "indicator_type": "IP", "value": "192.0.2.3",
                "timestamp": "2024-04-01T00:00:00.000000Z", "modified": "2024-05-01T06:00:00.000000Z",
                "CustomFields": {
                    "title": "Seen", "description": "Seen", "reportedby": "Header Inc", "indicatoridentification": "ex:o",
                    "trafficlightprotocol": "amber", "confidence": 15, "tags": ["observed"]
                }
            }),
        ]
    );
    assert_eq!(facts.skipped.get("negated indicators"), Some(&1));
}

#[test]
fn references_are_put_together_wherever_they_lead() {
    let observable = |id: &str, n: u8| {
        format!(
            "<cybox:Observable id=\"{id}\"><cybox:Object id=\"{id}-object\">{}</cybox:Object></cybox:Observable>",
            address(&format!("192.0.2.{n}"))
        )
    };
    let text = package(&format!(
        "<stix:Observables>{}{}{}<cybox:Observable id=\"ex:all\"><cybox:Observable_Composition operator=\"OR\"><cybox:Observable idref=\"ex:a\"/><cybox:Observable idref=\"ex:b\"/>\
         <cybox:Observable idref=\"ex:all\"/></cybox:Observable_Composition></cybox:Observable></stix:Observables>\
         <stix:Indicators><stix:Indicator id=\"ex:1\"><ind:Title>all</ind:Title><ind:Observable idref=\"ex:all\"/></stix:Indicator>\
         <stix:Indicator id=\"ex:2\"><ind:Title>object</ind:Title><ind:Observable><cybox:Object idref=\"ex:c-object\"/></ind:Observable></stix:Indicator>\
         <stix:Indicator id=\"ex:3\"><ind:Title>late</ind:Title><ind:Observable idref=\"ex:late\"/></stix:Indicator>\
         <stix:Indicator id=\"ex:4\"><ind:Title>lost</ind:Title><ind:Observable idref=\"ex:nowhere\"/></stix:Indicator>\
         <stix:Indicator idref=\"ex:1\"/></stix:Indicators>\
         <stix:Incidents><stix:Incident><own:Skipped><cybox:Observable/></own:Skipped><stix:Related_Observables>{}</stix:Related_Observables>\
         <stix:Affected_Assets>{}</stix:Affected_Assets></stix:Incident></stix:Incidents>",
        observable("ex:a", 1),
        observable("ex:b", 2),
        observable("ex:c", 3),
        observable("ex:late", 4),
        observable("ex:victim", 5),
    ));
    let (documents, facts) = read(&text);
    let mut told: Vec<String> = documents
        .iter()
        .map(|d| format!("{} {}", d["CustomFields"]["title"].as_str().unwrap_or("-"), d["value"].as_str().unwrap()))
        .collect();
    told.sort();
    assert_eq!(
        told,
        ["all 192.0.2.1", "all 192.0.2.2", "late 192.0.2.4", "object 192.0.2.3"],
        "nothing is merely observed that an indicator is about"
    );
    assert_eq!(facts.skipped.get("references to what is not there"), Some(&1));
}

#[test]
fn compositions_are_flattened_and_noted() {
    let part = |n: u8| {
        format!(
            "<ind:Indicator id=\"ex:part{n}\"><ind:Observable>{}</ind:Observable></ind:Indicator>",
            object(&address(&format!("192.0.2.{n}")))
        )
    };
    for (operator, noted) in [("AND", true), ("OR", false)] {
        let text = indicator(&format!(
            "<ind:Title>both</ind:Title><ind:Composite_Indicator_Expression operator=\"{operator}\">{}{}</ind:Composite_Indicator_Expression>",
            part(1),
            part(2)
        ));
        let (documents, _) = read(&text);
        assert_eq!(values(&documents), ["IP 192.0.2.1", "IP 192.0.2.2"]);
        for document in documents {
            assert_eq!(document["CustomFields"]["title"], "both");
            assert_eq!(document["CustomFields"].get("stixcomposition").is_some(), noted, "{operator}");
        }
    }
    let deep = format!(
        "{}{}{}",
        "<ind:Composite_Indicator_Expression><ind:Indicator>".repeat(60),
        part(1),
        "</ind:Indicator></ind:Composite_Indicator_Expression>".repeat(60)
    );
    let (documents, facts) = read(&indicator(&deep));
    assert_eq!((documents.len(), facts.rejected), (0, 1), "nesting has an end");
}

#[test]
fn namespaces_count_and_prefixes_do_not() {
    let text = indicator(&format!("<ind:Observable>{}</ind:Observable>", object(&address("192.0.2.1"))));
    let mut other = text.clone();
    for (number, prefix) in ["stix", "ind", "cybox", "A"].into_iter().enumerate() {
        other = other.replace(&format!("xmlns:{prefix}="), &format!("xmlns:p{number}="));
        for before in ["<", "</", "\""] {
            other = other.replace(&format!("{before}{prefix}:"), &format!("{before}p{number}:"));
        }
    }
    assert!(other.contains("<p2:Properties xsi:type=\"p3:AddressObjectType\">"), "{other}");
    assert_eq!(values(&read(&other).0), ["IP 192.0.2.1"]);
    // OASIS gave all of them other names.
    let oasis = text
        .replace("http://stix.mitre.org/", "http://docs.oasis-open.org/cti/ns/stix/")
        .replace("http://cybox.mitre.org/", "http://docs.oasis-open.org/cti/ns/cybox/");
    assert_eq!(values(&read(&oasis).0), ["IP 192.0.2.1"]);
    let foreign = text.replace("http://cybox.mitre.org/cybox-2", "urn:x");
    assert_eq!(values(&read(&foreign).0), [""; 0]);
    let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!(values(&read_bytes(utf16).0), ["IP 192.0.2.1"]);
    let bare = format!(
        "<cybox:Observables {NAMESPACES}><cybox:Observable>{}</cybox:Observable></cybox:Observables>",
        object(&address("192.0.2.1"))
    );
    assert_eq!(values(&read(&bare).0), ["IP 192.0.2.1"]);
}

#[test]
fn colours_cover_what_they_say() {
    let marking = |covers: &str, colour: &str| {
        format!(
            "<marking:Marking><marking:Controlled_Structure>{covers}</marking:Controlled_Structure><marking:Marking_Structure color=\"{colour}\"/></marking:Marking>"
        )
    };
    let cases = [
        (marking("//node()", "GREEN"), Some("green")),
        (marking("../../../../descendant-or-self::node()", "WHITE"), Some("white")),
        (format!("{}{}", marking("//node()", "GREEN"), marking("//node()", "RED")), Some("red")),
        (marking("//stix:Indicator[@id='ex:i']", "AMBER"), Some("amber")),
        (marking("//stix:Indicator[@id='ex:other']", "AMBER"), None),
        (marking("//node()", "PINK"), None),
    ];
    for (markings, expected) in cases {
        let inner = format!(
            "<stix:STIX_Header><stix:Handling>{markings}</stix:Handling></stix:STIX_Header><stix:Indicators><stix:Indicator id=\"ex:i\"><ind:Observable>{}</ind:Observable></stix:Indicator></stix:Indicators>",
            object(&address("192.0.2.1"))
        );
        let (documents, _) = read(&package(&inner));
        assert_eq!(documents[0]["CustomFields"]["trafficlightprotocol"].as_str(), expected, "{markings}");
    }
}

#[test]
fn bad_values_are_counted_with_their_place() {
    let inner = format!("\n<ind:Observable>{}</ind:Observable>", object(&address("not an address")));
    let text = indicator(&inner);
    let (documents, facts) = read(&text);
    assert!(documents.is_empty());
    let place = text.find("xsi:type=\"ind:IndicatorType\">").unwrap() + 29;
    assert_eq!(facts.rejections[0].to_string(), format!("line 8 (byte {place}): `not an address` is no address"));
    // What is too large is left out; the rest is kept.
    let large = format!("<ind:Description>{}</ind:Description>", "<b>x</b>".repeat(50_000));
    let both = package(&format!(
        "<stix:Indicators><stix:Indicator id=\"1\">{large}</stix:Indicator><stix:Indicator id=\"2\"><ind:Observable>{}</ind:Observable></stix:Indicator></stix:Indicators>",
        object(&address("192.0.2.1"))
    ));
    let (documents, facts) = read(&both);
    assert_eq!((values(&documents), facts.rejected), (vec!["IP 192.0.2.1".to_owned()], 1));
    let bomb = format!("<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]>{}", indicator("&b;"));
    let (documents, facts) = read(&bomb);
    assert_eq!((documents.len(), facts.rejected), (0, 1));
    assert!(facts.rejections[0].reason.contains("document type definition"));
}

#[test]
fn large_packages_come_in_pieces() {
    let one = |n: usize| {
        format!(
            "<stix:Indicator id=\"ex:{n}\"><ind:Description>{}</ind:Description><ind:Observable>{}</ind:Observable></stix:Indicator>",
            "words ".repeat(100),
            object(&address(&format!("10.0.{}.{}", n / 250, n % 250)))
        )
    };
    let text = package(&format!("<stix:Indicators>{}</stix:Indicators>", (0..15_000).map(one).collect::<String>()));
    let mut reader = Reader::new(Body::of(text.into()), 200_000).unwrap();
    let (mut facts, mut pages, mut count) = (Facts::default(), 0, 0);
    while let Some(objects) = reader.next(&mut facts).unwrap() {
        assert!(objects.text().len() < 5 << 20);
        (pages, count) = (pages + 1, count + objects.len());
    }
    assert_eq!((count, pages > 1, facts.rejected), (15_000, true, 0));
}

proptest! {
    #[test]
    fn changed_packages_do_no_harm(at in 0usize..4_000, byte in any::<u8>(), cut in 0usize..4_000, keeps in any::<bool>()) {
        let text = indicator(&format!(
            "<ind:Observable id=\"a\">{}</ind:Observable><ind:Composite_Indicator_Expression><ind:Indicator><ind:Observable idref=\"a\"/></ind:Indicator></ind:Composite_Indicator_Expression>",
            object(&address("192.0.2.1##comma##192.0.2.2"))
        ));
        let mut bytes = text.into_bytes();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        if !keeps {
            bytes.truncate(cut);
        }
        let _ = read_bytes(bytes);
    }

    #[test]
    fn any_text_of_a_value_makes_good_json(text in any::<String>()) {
        let escaped = quick_xml::escape::escape(text.as_str());
        let (documents, facts) = read(&indicator(&format!("<ind:Title>{escaped}</ind:Title><ind:Observable>{}{}</ind:Observable>", object(&address(&escaped)), object(&address("192.0.2.1")))));
        prop_assert!(!documents.is_empty() || facts.rejected > 0);
    }
}
