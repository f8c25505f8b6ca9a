//! What stands around objects in TAXII answers: envelope and bundle, manifest, versions (TAXII 2.1 §3.7, §5.3, §5.8; TAXII 2.0 §5.3,
//! STIX 2.0 part 1 §5; spec/xsoar-taxii2-server.md §2.7). Keys are sorted.

use super::text::string_into;
use super::{Profile, StixVersion};
use crate::model::ids::{Uuid16, write_uuid};

/// The resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// STIX objects: an envelope, in 2.0 a bundle.
    Objects,
    /// Manifest records.
    Manifest,
    /// The versions of one object.
    Versions,
}

/// What is known before the first object is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head<'a> {
    /// Whether another page follows.
    pub more: bool,
    /// The cursor of that page.
    pub next: Option<&'a str>,
    /// Id of the bundle, which is a new one for every answer.
    pub bundle: Uuid16,
}

/// How a page without objects is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyList {
    /// No list, as the standard wants it.
    #[default]
    Omitted,
    /// An empty list, for clients that break without the key.
    Written,
}

/// The frame of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub list: List,
    /// 2.0 has bundles and no paging keys.
    pub version: StixVersion,
    /// Whose rules: the original writes no `more:false`, always a list, no `spec_version` on bundles, and a final line feed.
    pub profile: Profile,
    /// How a page without objects is written in the standard profile.
    pub empty: EmptyList,
}

impl Frame {
    fn is_bundle(&self) -> bool {
        self.list == List::Objects && self.version == StixVersion::V20
    }

    /// Appends everything before the first object: `{"more":true,"next":"…","objects":[`.
    pub fn open(&self, head: Head<'_>, out: &mut Vec<u8>) {
        self.members_into(head, out);
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        out.extend_from_slice(match self.list {
            List::Objects | List::Manifest => br#""objects":["#,
            List::Versions => br#""versions":["#,
        });
    }

    /// Appends everything after the last object.
    pub fn close(&self, out: &mut Vec<u8>) {
        out.push(b']');
        self.end_into(out);
    }

    /// Appends a whole page without objects.
    pub fn whole_without_objects(&self, head: Head<'_>, out: &mut Vec<u8>) {
        if self.profile == Profile::Xsoar || self.empty == EmptyList::Written {
            self.open(head, out);
            return self.close(out);
        }
        self.members_into(head, out);
        self.end_into(out);
    }

    fn members_into(&self, head: Head<'_>, out: &mut Vec<u8>) {
        out.push(b'{');
        match self.version {
            StixVersion::V20 if self.is_bundle() => {
                out.extend_from_slice(br#""id":"bundle--"#);
                write_uuid(&head.bundle, out);
                out.push(b'"');
            }
            StixVersion::V20 => {}
            StixVersion::V21 => {
                if head.more {
                    out.extend_from_slice(br#""more":true"#);
                } else if self.profile == Profile::Standard {
                    out.extend_from_slice(br#""more":false"#);
                }
                if let Some(next) = head.next {
                    out.extend_from_slice(if out.last() == Some(&b'{') { br#""next":"# } else { br#","next":"# });
                    string_into(next, out);
                }
            }
        }
    }

    fn end_into(&self, out: &mut Vec<u8>) {
        if self.is_bundle() {
            out.extend_from_slice(match self.profile {
                Profile::Standard => br#","spec_version":"2.0","type":"bundle""#,
                Profile::Xsoar => br#","type":"bundle""#,
            });
        }
        out.push(b'}');
        if self.profile == Profile::Xsoar {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        use List::{Manifest, Objects, Versions};
        use Profile::{Standard, Xsoar};
        use StixVersion::{V20, V21};
        let last = Head::default();
        let middle = Head { more: true, next: Some("a\"b"), ..last };
        let id = "bundle--00000000-0000-0000-0000-000000000000";
        let cases = [
            (V21, Standard, Objects, middle, r#"{"more":true,"next":"a\"b","objects":[]}"#.to_owned(), None),
            (
                V21,
                Standard,
                Objects,
                last,
                r#"{"more":false,"objects":[]}"#.to_owned(),
                Some(r#"{"more":false}"#.to_owned()),
            ),
            (V21, Standard, Versions, last, r#"{"more":false,"versions":[]}"#.to_owned(), None),
            (V21, Xsoar, Objects, middle, "{\"more\":true,\"next\":\"a\\\"b\",\"objects\":[]}\n".to_owned(), None),
            (
                V21,
                Xsoar,
                Manifest,
                Head { next: Some("7"), ..last },
                "{\"next\":\"7\",\"objects\":[]}\n".to_owned(),
                None,
            ),
            (V21, Xsoar, Manifest, last, "{\"objects\":[]}\n".to_owned(), Some("{\"objects\":[]}\n".to_owned())),
            (
                V20,
                Standard,
                Objects,
                middle,
                format!(r#"{{"id":"{id}","objects":[],"spec_version":"2.0","type":"bundle"}}"#),
                Some(format!(r#"{{"id":"{id}","spec_version":"2.0","type":"bundle"}}"#)),
            ),
            (V20, Standard, Manifest, middle, r#"{"objects":[]}"#.to_owned(), Some("{}".to_owned())),
            (V20, Xsoar, Objects, last, format!("{{\"id\":\"{id}\",\"objects\":[],\"type\":\"bundle\"}}\n"), None),
        ];
        for (version, profile, list, head, full, empty) in cases {
            let frame = Frame { list, version, profile, empty: EmptyList::Omitted };
            let mut out = Vec::new();
            frame.open(head, &mut out);
            frame.close(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), full, "{frame:?}");
            if let Some(empty) = empty {
                let mut out = Vec::new();
                frame.whole_without_objects(head, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), empty, "{frame:?}");
            }
        }
    }
}
