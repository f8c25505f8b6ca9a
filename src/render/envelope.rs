//! What stands around objects in TAXII 2.1 answers: envelope, manifest, versions (TAXII 2.1 §3.7, §5.3, §5.8). Keys are
//! sorted.

use super::text::string_into;

/// The key of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Envelopes and manifests.
    Objects,
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

/// Appends everything before the first object: `{"more":true,"next":"…","objects":[`.
pub fn open(head: Head<'_>, list: List, out: &mut Vec<u8>) {
    members_into(head, out);
    out.extend_from_slice(match list {
        List::Objects => br#","objects":["#,
        List::Versions => br#","versions":["#,
    });
}

/// Appends everything after the last object.
pub fn close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"]}");
}

/// Appends a whole page without objects.
pub fn empty(head: Head<'_>, list: List, style: EmptyList, out: &mut Vec<u8>) {
    match style {
        EmptyList::Omitted => {
            members_into(head, out);
            out.push(b'}');
        }
        EmptyList::Written => {
            open(head, list, out);
            close(out);
        }
    }
}

fn members_into(head: Head<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(if head.more { br#"{"more":true"# } else { br#"{"more":false"# });
    if let Some(next) = head.next {
        out.extend_from_slice(br#","next":"#);
        string_into(next, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let last = Head { more: false, next: None };
        let middle = Head { more: true, next: Some("a\"b") };
        let opened = |head, list| {
            let mut out = Vec::new();
            open(head, list, &mut out);
            close(&mut out);
            String::from_utf8(out).unwrap()
        };
        let emptied = |style| {
            let mut out = Vec::new();
            empty(last, List::Objects, style, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(opened(middle, List::Objects), r#"{"more":true,"next":"a\"b","objects":[]}"#);
        assert_eq!(opened(last, List::Versions), r#"{"more":false,"versions":[]}"#);
        assert_eq!(emptied(EmptyList::Omitted), r#"{"more":false}"#);
        assert_eq!(emptied(EmptyList::Written), r#"{"more":false,"objects":[]}"#);
    }
}
