//! Messages of TAXII 1.0 and 1.1 (spec/taxii-1.md §2 and §3): one POST each way, errors in status 200.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_xml::escape::escape;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::model::time::Timestamp;
use crate::source::client::Collection;
use crate::source::error::SourceError;
use crate::source::http::{Answer, Ask, Http, blocking};
use crate::source::options::{Version, shown};
use crate::source::xml::{Family, Node, Token, Tree, Xml, XmlError};

/// Messages other than poll responses are read up to this size.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Status messages are looked for in so much of an answer.
const MAX_STATUS_BYTES: usize = 256 << 10;

/// Speaks 1.x with one server.
#[derive(Debug)]
pub(super) struct Taxii1 {
    pub(super) http: Arc<Http>,
    messages: AtomicU64,
}

/// A service that a discovery lists.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) kind: String,
    pub(super) address: Url,
}

/// What to poll for.
#[derive(Clone, Debug)]
pub(super) struct PollRequest<'a> {
    pub(super) collection: &'a str,
    pub(super) subscription: Option<&'a str>,
    pub(super) begin: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    pub(super) count_only: bool,
}

/// A status message.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) kind: String,
    message: String,
    details: Vec<(String, String)>,
}

impl Status {
    pub(super) fn detail(&self, name: &str) -> Option<&str> {
        self.details.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    pub(super) fn wait(&self) -> Option<Duration> {
        self.detail("ESTIMATED_WAIT").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs)
    }

    fn read(root: Node<'_>) -> Self {
        let mut details = Vec::new();
        if let Some(detail) = root.child("Status_Detail") {
            for item in detail.children_named("Detail") {
                details.push((item.attribute("name").unwrap_or_default().to_owned(), item.whole_text()));
            }
            if let (true, Some(text)) = (details.is_empty(), detail.text()) {
                details.push((String::new(), text.to_owned()));
            }
        }
        Status {
            kind: root.attribute("status_type").unwrap_or_default().trim().to_owned(),
            message: root.child("Message").map(|node| node.whole_text()).unwrap_or_default(),
            details,
        }
    }

    /// The error it stands for; none for good news.
    fn error(&self, url: String, clean: impl Fn(&str) -> String) -> Option<SourceError> {
        let mut words = vec![self.message.clone()];
        words.extend(
            self.details
                .iter()
                .map(|(name, text)| if name.is_empty() { text.clone() } else { format!("{name} {text}") }),
        );
        words.retain(|word| !word.is_empty());
        let said = clean(&words.join("; "));
        let detail = if said.is_empty() { self.kind.clone() } else { format!("{}: {said}", self.kind) };
        Some(match self.kind.as_str() {
            "SUCCESS" | "PENDING" => return None,
            "UNAUTHORIZED" => SourceError::Unauthorized { url, detail },
            "DENIED" => SourceError::Forbidden { url, detail },
            "NOT_FOUND" => SourceError::NotFound { url, detail },
            "RETRY" => SourceError::Busy { url, detail, wait: self.wait() },
            kind => {
                let advice = match kind {
                    "BAD_MESSAGE" => {
                        "it does not understand our message; try the other version (1.0 or 1.1), and report this"
                    }
                    "POLLING_UNSUPPORTED" => "this collection cannot be polled; ask its operator for another way",
                    "UNSUPPORTED_MESSAGE" | "UNSUPPORTED_PROTOCOL" => {
                        "set the version of the source to the other one (1.0 or 1.1)"
                    }
                    "UNSUPPORTED_CONTENT" => "it has this collection in no form that it would send us",
                    "ASYNCHRONOUS_POLL_ERROR" => "it lost the result it was making; fetch again",
                    "INVALID_RESPONSE_PART" => "it does not have that part of the result any more; fetch again",
                    "FAILURE" | "NETWORK_ERROR" => "it failed by itself; try again later, and tell its operator",
                    _ => "ask its operator what that means",
                };
                SourceError::Refused { url, status: clean(kind), detail: said, advice }
            }
        })
    }
}

/// The messages that are not poll responses.
#[derive(Debug)]
enum Message {
    Discovery(Vec<RawService>),
    Collections(Vec<RawCollection>),
    Other(String),
}

#[derive(Debug)]
struct RawService {
    kind: String,
    binding_fits: bool,
    is_available: bool,
    address: String,
}

#[derive(Debug)]
struct RawCollection {
    name: String,
    description: Option<String>,
    is_ordered: bool,
    is_available: bool,
    volume: Option<u64>,
    bindings: Vec<String>,
    polls: Vec<String>,
}

impl Taxii1 {
    pub(super) fn new(http: Arc<Http>) -> Self {
        Taxii1 { http, messages: AtomicU64::new(fastrand::u64(1_000_000..1_000_000_000)) }
    }

    fn headers(url: &Url, version: Version) -> HeaderMap {
        let number = version.as_str();
        let transport = if url.scheme() == "https" { "https" } else { "http" };
        let message = format!("urn:taxii.mitre.org:message:xml:{number}");
        let all = [
            (ACCEPT.as_str(), "application/xml".to_owned()),
            (CONTENT_TYPE.as_str(), "application/xml".to_owned()),
            ("x-taxii-content-type", message.clone()),
            ("x-taxii-accept", message),
            ("x-taxii-services", format!("urn:taxii.mitre.org:services:{number}")),
            ("x-taxii-protocol", format!("urn:taxii.mitre.org:protocol:{transport}:1.0")),
        ];
        let pair = |(name, value): (&str, String)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(&value).ok()?))
        };
        all.into_iter().filter_map(pair).collect()
    }

    /// The start of a message: its name, namespace and id; further attributes and the rest follow.
    fn opening(&self, name: &str, version: Version) -> String {
        let namespace = match version {
            Version::V10 => "http://taxii.mitre.org/messages/taxii_xml_binding-1",
            _ => "http://taxii.mitre.org/messages/taxii_xml_binding-1.1",
        };
        let id = self.messages.fetch_add(1, Ordering::Relaxed);
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<t:{name} xmlns:t=\"{namespace}\" message_id=\"{id}\"")
    }

    /// Sends a message and takes the answer; status messages become errors, but for `PENDING`.
    async fn exchange(
        &self,
        url: &Url,
        version: Version,
        message: String,
        again: impl Fn(&SourceError) -> bool + Copy,
    ) -> Result<Answer, SourceError> {
        let ask = Ask::post(url.clone(), Self::headers(url, version), message.into_bytes());
        let http = Arc::clone(&self.http);
        let sent = self.http.send_checked(&ask, again, check).await;
        match sent {
            // A token may have become stale: status 200 says so here.
            Err(SourceError::Unauthorized { .. }) if http.forget_token().await => {
                self.http.send_checked(&ask, again, check).await
            }
            sent => sent,
        }
        .map_err(|error| self.cleaned(error))
    }

    /// What a status message says was read where our secrets are not known.
    fn cleaned(&self, error: SourceError) -> SourceError {
        let clean = |text: String| self.http.clean(&text);
        match error {
            SourceError::Unauthorized { url, detail } => SourceError::Unauthorized { url, detail: clean(detail) },
            SourceError::Forbidden { url, detail } => SourceError::Forbidden { url, detail: clean(detail) },
            SourceError::NotFound { url, detail } => SourceError::NotFound { url, detail: clean(detail) },
            SourceError::Refused { url, status, detail, advice } => {
                SourceError::Refused { url, status: clean(status), detail: clean(detail), advice }
            }
            other => other,
        }
    }

    async fn ask(&self, url: &Url, version: Version, name: &str) -> Result<(Message, Url), SourceError> {
        let message = format!("{}/>\n", self.opening(name, version));
        // A service that fails here may be another one: no use in asking again.
        let again = |error: &SourceError| error.is_transient() && !matches!(error, SourceError::Refused { .. });
        let mut answer = self.exchange(url, version, message, again).await?;
        let at = answer.url.clone();
        let text = answer.body.start(MAX_MESSAGE_BYTES);
        let read = blocking(move || Ok(read_message(text?, version))).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let message =
            read.map_err(|reason| SourceError::NotTaxii { url: shown(&at), version: Some(version), reason })?;
        Ok((message, at))
    }

    /// The services of a server, as far as we can speak with them.
    pub(super) async fn discover(
        &self,
        url: &Url,
        version: Version,
    ) -> Result<(Vec<Service>, Vec<String>), SourceError> {
        let (message, at) = self.ask(url, version, "Discovery_Request").await?;
        let Message::Discovery(services) = message else { return Err(unexpected(&at, version, &message)) };
        let mut notes = Vec::new();
        let mut found = Vec::new();
        for service in services.into_iter().filter(|service| service.is_available && service.binding_fits) {
            if let Ok((address, note)) = self.http.place(&at, &service.address) {
                notes.extend(note);
                found.push(Service { kind: service.kind, address });
            }
        }
        Ok((found, notes))
    }

    /// The collections or feeds that a management service lists. Those without an address of their own are polled at
    /// `poll`.
    pub(super) async fn collections(
        &self,
        url: &Url,
        version: Version,
        poll: Option<&Url>,
    ) -> Result<(Vec<Collection>, Vec<String>), SourceError> {
        let request =
            if version == Version::V10 { "Feed_Information_Request" } else { "Collection_Information_Request" };
        let (message, at) = self.ask(url, version, request).await?;
        let Message::Collections(list) = message else { return Err(unexpected(&at, version, &message)) };
        let mut notes = Vec::new();
        let mut found = Vec::new();
        for raw in list {
            let mut address = None;
            for poll in &raw.polls {
                if let Ok((url, note)) = self.http.place(&at, poll) {
                    notes.extend(note);
                    address = Some(url);
                    break;
                }
            }
            let address = address.or_else(|| poll.cloned());
            found.push(Collection {
                version,
                can_read: raw.is_available && address.is_some(),
                root: address.unwrap_or_else(|| at.clone()),
                root_title: String::new(),
                title: raw.name.clone(),
                id: raw.name,
                alias: None,
                description: raw.description,
                media_types: raw.bindings,
                volume: raw.volume,
                is_ordered: raw.is_ordered,
            });
        }
        Ok((found, notes))
    }

    pub(super) async fn poll(
        &self,
        url: &Url,
        version: Version,
        request: &PollRequest<'_>,
    ) -> Result<Answer, SourceError> {
        let mut message;
        let name = escape(request.collection);
        let time =
            |name: &str, at: Option<Timestamp>| at.map_or(String::new(), |at| format!("<t:{name}>{at}</t:{name}>"));
        let begin = time("Exclusive_Begin_Timestamp", request.begin);
        let end = time("Inclusive_End_Timestamp", request.end);
        if version == Version::V10 {
            message = self.opening("Poll_Request", version);
            message.push_str(&format!(" feed_name=\"{name}\""));
            if let Some(subscription) = request.subscription {
                message.push_str(&format!(" subscription_id=\"{}\"", escape(subscription)));
            }
            message.push_str(&format!(">{begin}{end}</t:Poll_Request>\n"));
        } else {
            message = self.opening("Poll_Request", version);
            message.push_str(&format!(" collection_name=\"{name}\">{begin}{end}"));
            match request.subscription {
                Some(subscription) => {
                    message.push_str(&format!("<t:Subscription_ID>{}</t:Subscription_ID>", escape(subscription)))
                }
                None => {
                    let kind = if request.count_only { "COUNT_ONLY" } else { "FULL" };
                    message.push_str(&format!(
                        "<t:Poll_Parameters allow_asynch=\"false\"><t:Response_Type>{kind}</t:Response_Type></t:Poll_Parameters>"
                    ));
                }
            }
            message.push_str("</t:Poll_Request>\n");
        }
        self.exchange(url, version, message, SourceError::is_transient).await
    }

    /// A part of a result that the server keeps.
    pub(super) async fn fulfil(
        &self,
        url: &Url,
        collection: &str,
        result: &str,
        part: u32,
    ) -> Result<Answer, SourceError> {
        let message = format!(
            "{} collection_name=\"{}\" result_id=\"{}\" result_part_number=\"{part}\"/>\n",
            self.opening("Poll_Fulfillment", Version::V11),
            escape(collection),
            escape(result)
        );
        self.exchange(url, Version::V11, message, SourceError::is_transient).await
    }
}

fn unexpected(url: &Url, version: Version, message: &Message) -> SourceError {
    let what = match message {
        Message::Discovery(_) => "Discovery_Response",
        Message::Collections(_) => "list of collections",
        Message::Other(name) => name,
    };
    SourceError::NotTaxii {
        url: shown(url),
        version: Some(version),
        reason: format!("it answered with a {what} that was not asked for"),
    }
}

/// The status message that an answer is, if it is one.
pub(super) fn status_in(answer: &mut Answer) -> Option<Status> {
    let start = answer.body.start(MAX_STATUS_BYTES).ok()?;
    let mut xml = Xml::new(crate::source::body::Body::of(start.into()), MAX_STATUS_BYTES).ok()?;
    loop {
        match xml.next().ok()? {
            Token::Start => break,
            Token::Text | Token::End => {}
            Token::Eof => return None,
        }
    }
    if xml.element.name != "Status_Message" {
        return None;
    }
    let mut tree = Tree::default();
    xml.tree(&mut tree).ok()?.then(|| tree.root().map(Status::read)).flatten()
}

/// Whether an answer is a whole message, and no bad news.
fn check(answer: &mut Answer) -> Result<(), SourceError> {
    let url = shown(&answer.url);
    let spool =
        |error: std::io::Error| SourceError::Spool { folder: "the spool folder".to_owned(), reason: error.to_string() };
    let start = answer.body.start(4_096).map_err(spool)?;
    let end = answer.body.end(512).map_err(spool)?;
    if start.trim_ascii().is_empty() {
        return Err(SourceError::Truncated { url, reason: "it is empty".to_owned() });
    }
    // UTF-16 is not looked into here.
    if !start.contains(&0) {
        let text = String::from_utf8_lossy(&start);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let other = match text.chars().next() {
            Some('<') => {
                let root = root_name(text);
                let local = root.rsplit(':').next().unwrap_or_default();
                (local.eq_ignore_ascii_case("html"))
                    .then_some("it answers with HTML; check the URL, and what stands before the server")
            }
            Some('{') => Some("it answers with JSON; it may speak TAXII 2.x"),
            _ => Some("its answer is no XML"),
        };
        if let Some(reason) = other {
            return Err(SourceError::NotTaxii { url, version: None, reason: reason.to_owned() });
        }
        let root = root_name(text);
        let end_text = String::from_utf8_lossy(&end);
        let closing = format!("</{root}");
        let is_whole = root.is_empty()
            || end_text.contains(&closing) && end_text.trim_end().ends_with('>')
            || end_text.trim_end().ends_with("/>") && answer.body.len() < 4_096;
        if !is_whole {
            return Err(SourceError::Truncated { url, reason: "its XML does not end".to_owned() });
        }
    }
    match status_in(answer).and_then(|status| status.error(url, crate::source::error::quoted)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The name of the first element as it is written; empty when it is further away.
fn root_name(text: &str) -> &str {
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let tag = rest.get(at + 1..).unwrap_or_default();
        match tag.chars().next() {
            Some('?') => rest = tag.find("?>").and_then(|end| tag.get(end + 2..)).unwrap_or_default(),
            Some('!') if tag.starts_with("!--") => {
                rest = tag.find("-->").and_then(|end| tag.get(end + 3..)).unwrap_or_default()
            }
            Some('!') => return "",
            _ => {
                let end = tag.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/')).unwrap_or(tag.len());
                return tag.get(..end).unwrap_or_default();
            }
        }
    }
    ""
}

fn read_message(text: Vec<u8>, version: Version) -> Result<Message, String> {
    let broken = |error: XmlError| match error {
        XmlError::Broken { line, reason, .. } => format!("{reason} (line {line})"),
        XmlError::Io(error) => error.to_string(),
    };
    let mut xml =
        Xml::new(crate::source::body::Body::of(text.into()), MAX_MESSAGE_BYTES).map_err(|error| error.to_string())?;
    loop {
        match xml.next().map_err(broken)? {
            Token::Start => break,
            Token::Text | Token::End => {}
            Token::Eof => return Err("its answer is no XML".to_owned()),
        }
    }
    if !xml.element.family.is_taxii() {
        return Err(format!(
            "its answer is no TAXII message but `{}`",
            crate::source::error::quoted(&xml.element.name)
        ));
    }
    let expected = if version == Version::V10 { Family::Taxii10 } else { Family::Taxii11 };
    if xml.element.family != expected {
        return Err("its answer is in another version than asked for; set the version of the source".to_owned());
    }
    let mut tree = Tree::default();
    if !xml.tree(&mut tree).map_err(broken)? {
        return Err("its answer is too large".to_owned());
    }
    let Some(root) = tree.root() else { return Err("its answer is empty".to_owned()) };
    Ok(match root.name() {
        "Discovery_Response" => {
            Message::Discovery(root.children_named("Service_Instance").map(|node| service(node, version)).collect())
        }
        "Collection_Information_Response" | "Feed_Information_Response" => {
            let listed = root.children().filter(|node| matches!(node.name(), "Collection" | "Feed"));
            Message::Collections(listed.filter_map(|node| collection(node, version)).collect())
        }
        name => Message::Other(name.chars().take(60).collect()),
    })
}

fn is_available(node: Node<'_>) -> bool {
    node.attribute("available").is_none_or(|text| !matches!(text.trim(), "false" | "0"))
}

/// Whether we speak what a service wants: no binding named, ours, or one we do not know but of our version.
fn binding_fits(node: Node<'_>, version: Version) -> bool {
    let mut bindings = node.children_named("Message_Binding").filter_map(|node| node.text()).peekable();
    let wanted = format!("xml:{}", version.as_str());
    let transport_fits = node.text_at(&["Protocol_Binding"]).is_none_or(|text| text.contains(":http"));
    transport_fits
        && (bindings.peek().is_none() || bindings.any(|text| text.ends_with(&wanted) || text.ends_with("xml:1.1.1")))
}

fn service(node: Node<'_>, version: Version) -> RawService {
    RawService {
        kind: node.attribute("service_type").unwrap_or_default().to_owned(),
        binding_fits: binding_fits(node, version) && node.text_at(&["Address"]).is_some(),
        is_available: is_available(node),
        address: node.text_at(&["Address"]).unwrap_or_default().to_owned(),
    }
}

fn collection(node: Node<'_>, version: Version) -> Option<RawCollection> {
    let name = node.attribute("collection_name").or_else(|| node.attribute("feed_name"))?.to_owned();
    let bindings =
        node.children_named("Content_Binding").filter_map(|node| node.attribute("binding_id").or(node.text()));
    let polls = node.children_named("Polling_Service").filter(|node| binding_fits(*node, version));
    Some(RawCollection {
        name,
        description: node.child("Description").map(|node| node.whole_text()).filter(|text| !text.is_empty()),
        is_ordered: node.attribute("collection_type") != Some("DATA_SET"),
        is_available: is_available(node),
        volume: node.text_at(&["Collection_Volume"]).and_then(|text| text.parse().ok()),
        bindings: bindings.map(str::to_owned).collect(),
        polls: polls.filter_map(|node| node.text_at(&["Address"])).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_roots_are_found() {
        let cases = [
            ("<?xml version='1.0'?>\n<!-- <x> --><t:Poll_Response a='b'>", "t:Poll_Response"),
            ("<a/>", "a"),
            ("<a>", "a"),
            ("<!DOCTYPE html>", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(root_name(text), expected, "{text}");
        }
    }
}
