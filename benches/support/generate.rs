//! Deterministic XSOAR indicator documents, one JSON line each, for benches, `examples/generate.rs` and `perf/`.
//!
//! A document depends on its index and the [`Options`] alone, so any range can be made on its own, in any order, on any
//! number of threads. Values never repeat: each type numbers its own documents, and the number goes into the value
//! through a bijective mix. Only the standard library is used, so that it also builds with plain `rustc`.

/// What the documents depend on besides their index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Another seed gives other values and other draws.
    pub(crate) seed: u64,
    /// How many documents share the two years from 1 October 2024; later indexes go on at the same pace.
    pub(crate) span: u64,
    /// One document in this many is a changed one (0: none).
    pub(crate) changed_every: u64,
    /// How often those have changed: a higher generation is a later version with another score, tag and date.
    pub(crate) generation: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, span: 1_000_000, changed_every: 0, generation: 0 }
    }
}

/// Documents per round; the shares below are of this many, so every round holds each type exactly so often.
const ROUND: usize = 1000;
/// 2024-10-01T00:00:00Z in seconds.
const EPOCH_SECONDS: u64 = 1_727_740_800;
const DAY: u64 = 86_400_000_000;
const TWO_YEARS: u64 = 730 * DAY;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Ip,
    Domain,
    Url,
    File,
    Email,
    Cidr,
    Ipv6,
    Cve,
    Account,
    RegistryKey,
    Asn,
    Malware,
    AttackPattern,
    ThreatActor,
    Report,
    Software,
    Certificate,
}

const SHARES: [(Type, &str, u16); 17] = [
    (Type::Ip, "IP", 300),
    (Type::Domain, "Domain", 220),
    (Type::Url, "URL", 180),
    (Type::File, "File", 220),
    (Type::Email, "Email", 20),
    (Type::Cidr, "CIDR", 20),
    (Type::Ipv6, "IPv6", 10),
    (Type::Cve, "CVE", 5),
    (Type::Account, "Account", 4),
    (Type::RegistryKey, "Registry Key", 4),
    (Type::Asn, "ASN", 2),
    (Type::Malware, "Malware", 4),
    (Type::AttackPattern, "Attack Pattern", 2),
    (Type::ThreatActor, "Threat Actor", 2),
    (Type::Report, "Report", 3),
    (Type::Software, "Software", 2),
    (Type::Certificate, "X509 Certificate", 2),
];

#[rustfmt::skip]
const TAGS: [&str; 50] = [
    "malware", "phishing", "c2", "botnet", "scanner", "ransomware", "bruteforce", "spam", "tor", "proxy", "vpn",
    "exploit-kit", "cryptomining", "credential-theft", "loader", "stealer", "rat", "trojan", "dropper", "webshell",
    "backdoor", "ddos", "fast-flux", "dga", "sinkhole", "typosquatting", "watering-hole", "supply-chain", "lateral",
    "exfiltration", "persistence", "initial-access", "apt", "crimeware", "banking", "mobile", "iot", "ics", "cloud",
    "macro", "pdf", "office", "powershell", "cobalt-strike", "log4j", "approved_black", "approved_watchlist",
    "pending_review", "organizational_external_ip", "zero-day",
];

const FEEDS: [(&str, &str, &str); 10] = [
    ("Harbour Feed", "Harbour Feed_instance_1", "B - Usually reliable"),
    ("Lantern Blocklist", "Lantern Blocklist_instance_1", "C - Fairly reliable"),
    ("Open Malware Hashes", "Open Malware Hashes_instance_1", "B - Usually reliable"),
    ("Northlight Intel", "Northlight Intel_instance_1", "A - Completely reliable"),
    ("Phish Ledger", "Phish Ledger_instance_1", "C - Fairly reliable"),
    ("Tor Exit Feed", "Tor Exit Feed_instance_1", "A - Completely reliable"),
    ("Botnet Tracker", "Botnet Tracker_instance_2", "B - Usually reliable"),
    ("CERT Sharing", "CERT Sharing_instance_1", "A - Completely reliable"),
    ("Honeypot Grid", "Honeypot Grid_instance_3", "D - Not usually reliable"),
    ("Community TAXII", "Community TAXII_instance_1", "F - Reliability cannot be judged"),
];

#[rustfmt::skip]
const VERBS: [&str; 8] = [
    "Seen scanning", "Reported as a command and control server for", "Distributes", "Used in phishing against",
    "Observed in logs of", "Linked by several feeds to", "Hosts payloads of", "Contacted by samples of",
];
#[rustfmt::skip]
const OBJECTS: [&str; 8] = [
    "hosts with open RDP", "a loader family", "customers of two banks", "a honeypot in Frankfurt",
    "an information stealer", "unpatched mail gateways", "a ransomware affiliate", "public \"paste\" sites",
];
#[rustfmt::skip]
const TLDS: [&str; 16] = [
    "com", "net", "org", "info", "ru", "cn", "top", "xyz", "de", "co.uk", "io", "biz", "online", "site", "com.br",
    "fr",
];
const HOSTS: [&str; 8] = ["www.", "mail.", "cdn.", "login.", "update.", "api.", "secure-login.", "files."];
#[rustfmt::skip]
const FOLDERS: [&str; 16] = [
    "wp-content", "images", "gate", "panel", "download", "update", "invoice", "static", "js", "admin", "login",
    "doc", "files", "api/v2", "secure", "uploads/2025",
];
const ENDINGS: [&str; 8] = [".php", ".exe", ".html", ".zip", "/", ".js", ".doc", ""];
const COUNTRIES: [&str; 12] = ["US", "CN", "RU", "DE", "NL", "BR", "IN", "FR", "VN", "GB", "KR", "UA"];
const PHASES: [&str; 7] =
    ["Reconnaissance", "Weaponization", "Delivery", "Exploitation", "Installation", "Command & Control", "Actions"];
const TLP: [&str; 8] = ["GREEN", "GREEN", "GREEN", "AMBER", "AMBER", "WHITE", "CLEAR", "RED"];
/// Years most CVEs are from, newest most often.
const CVE_YEARS: u64 = 11;

/// Writes documents by their index.
#[derive(Debug)]
pub(crate) struct Generator {
    options: Options,
    /// For every place of a round: entry of [`SHARES`], and the rank among the places of that type.
    round: Vec<(u8, u16)>,
    /// Tags as often as they are drawn: the tag of rank r about 1/r as often as the first.
    zipf: Vec<u8>,
}

impl Generator {
    /// Lays out the round and the tag table; the rest happens in [`Generator::write`].
    pub(crate) fn new(options: Options) -> Self {
        let mut types: Vec<u8> = Vec::with_capacity(ROUND);
        for (entry, &(_, _, share)) in (0u8..).zip(&SHARES) {
            types.extend(std::iter::repeat_n(entry, usize::from(share)));
        }
        let mut draws = Draws(mix(options.seed));
        for last in (1..types.len()).rev() {
            types.swap(last, draws.index(last + 1));
        }
        let mut ranks = [0u16; SHARES.len()];
        let round = types
            .into_iter()
            .map(|entry| {
                let rank = &mut ranks[usize::from(entry)];
                *rank += 1;
                (entry, *rank - 1)
            })
            .collect();
        let zipf =
            (0..TAGS.len() as u8).flat_map(|tag| std::iter::repeat_n(tag, 900 / (usize::from(tag) + 1))).collect();
        Self { options, round, zipf }
    }

    /// Appends the document of `index` and a line feed to `out`.
    pub(crate) fn write(&self, index: u64, out: &mut Vec<u8>) {
        let options = &self.options;
        let (entry, rank) = self.round[(index % ROUND as u64) as usize];
        let (kind, type_name, share) = SHARES[usize::from(entry)];
        let ordinal = index / ROUND as u64 * u64::from(share) + u64::from(rank);
        let key = mix(options.seed ^ (u64::from(entry) << 56));
        let mut draws = Draws(mix(options.seed).wrapping_add(mix(index)));
        let changed =
            options.changed_every > 0 && options.generation > 0 && index.is_multiple_of(options.changed_every);
        let generation = if changed { options.generation } else { 0 };

        let pace = (TWO_YEARS / options.span.max(1)).max(1);
        let timestamp = index * pace + draws.below(pace.max(4_000_000));
        let first_seen = timestamp.saturating_sub(draws.below(20 * DAY));
        let lag = if draws.below(10) < 4 { 0 } else { draws.below(30 * DAY) };
        let last_seen = timestamp + lag + generation * DAY;
        let modified = last_seen + draws.below(3_600_000_000);

        let mut doc = Document { out };
        doc.raw(b"{\"id\":\"");
        doc.number(100_000 + index);
        doc.raw(b"\",\"indicator_type\":");
        doc.text(type_name);
        doc.raw(b",\"value\":");
        let start = doc.out.len();
        doc.raw(b"\"");
        write_value(kind, ordinal, key, &mut doc);
        doc.raw(b"\"");
        let value = start..doc.out.len();
        doc.time("timestamp", timestamp, draws.below(8) == 0);
        doc.time("modified", modified, draws.below(8) == 0);
        let score = (SCORES[draws.index(SCORES.len())] + generation) % 4;
        doc.raw(b",\"score\":");
        doc.number(score);
        doc.time("firstSeen", first_seen, false);
        doc.time("lastSeen", last_seen, false);
        if draws.below(10) < 6 {
            let days = [30, 90, 365, 1095][draws.index(4)];
            let expiration = last_seen + days * DAY;
            doc.time("expiration", expiration, false);
            doc.key("expirationStatus");
            doc.text(if expiration < TWO_YEARS { "expired" } else { "active" });
        }
        let feed = draws.index(FEEDS.len());
        let second = (draws.below(5) == 0).then(|| (feed + 1 + draws.index(FEEDS.len() - 1)) % FEEDS.len());
        doc.raw(b",\"sourceBrands\":[");
        doc.text(FEEDS[feed].0);
        if let Some(other) = second {
            doc.raw(b",");
            doc.text(FEEDS[other].0);
        }
        doc.raw(b"],\"sourceInstances\":[");
        doc.text(FEEDS[feed].1);
        if let Some(other) = second {
            doc.raw(b",");
            doc.text(FEEDS[other].1);
        }
        doc.raw(b"],\"aggregatedReliability\":");
        doc.text(FEEDS[feed].2);
        doc.raw(b",\"CustomFields\":{\"tags\":[");
        self.write_tags(index, generation, &mut draws, &mut doc);
        doc.raw(b"],\"trafficlightprotocol\":");
        doc.text(TLP[draws.index(TLP.len())]);
        doc.raw(b",\"confidence\":");
        doc.number(20 + 5 * draws.below(17));
        if draws.below(10) < 7 {
            doc.raw(b",\"description\":\"");
            doc.escaped(VERBS[draws.index(VERBS.len())]);
            doc.raw(b" ");
            doc.escaped(OBJECTS[draws.index(OBJECTS.len())]);
            doc.raw(b", case ");
            doc.number(draws.below(90_000) + 10_000);
            doc.raw(b".\"");
        }
        if draws.below(10) < 3 {
            doc.raw(b",\"killchainphases\":[");
            doc.text(PHASES[draws.index(PHASES.len())]);
            doc.raw(b"]");
        }
        if draws.below(2) == 0 {
            doc.time("firstseenbysource", first_seen, false);
        }
        write_custom(kind, ordinal, key, value, first_seen, &mut draws, &mut doc);
        doc.raw(b"}}\n");
    }

    fn write_tags(&self, index: u64, generation: u64, draws: &mut Draws, doc: &mut Document<'_>) {
        let mut taken = 0u64;
        let mut separator: &[u8] = b"";
        for _ in 0..[0, 1, 1, 2, 2, 3, 3, 4][draws.index(8)] {
            let tag = self.zipf[draws.index(self.zipf.len())];
            if taken & (1 << tag) == 0 {
                taken |= 1 << tag;
                doc.raw(separator);
                doc.text(TAGS[usize::from(tag)]);
                separator = b",";
            }
        }
        // One document of each run of that many, so counts are exact whatever the range.
        for (every, name) in [(10_000, "rare-1-in-10000"), (100_000, "rare-1-in-100000")] {
            if index % every == mix(self.options.seed ^ every ^ (index / every)) % every {
                doc.raw(separator);
                doc.text(name);
                separator = b",";
            }
        }
        if generation > 0 {
            doc.raw(separator);
            doc.raw(b"\"generation-");
            doc.number(generation);
            doc.raw(b"\"");
        }
    }
}

/// Verdicts as often as feeds give them.
const SCORES: [u64; 10] = [3, 3, 3, 3, 2, 2, 0, 0, 0, 1];

/// The value without its quotes, escaped; `ordinal` numbers the values of one type.
fn write_value(kind: Type, ordinal: u64, key: u64, doc: &mut Document<'_>) {
    let unique = mix(ordinal ^ key);
    let mut draws = Draws(unique);
    match kind {
        Type::Ip => doc.address(permute_network(ordinal, 32, key), 32),
        Type::Cidr => {
            let bits = [24, 24, 24, 25, 26, 27, 28, 23][(ordinal % 8) as usize];
            doc.address(permute_network(ordinal, bits, key), bits);
            doc.raw(b"/");
            doc.number(u64::from(bits));
        }
        Type::Ipv6 => {
            let groups = permute(ordinal, 48, key);
            doc.raw(b"2a02");
            for shift in [36, 24, 12, 0] {
                doc.raw(b":");
                doc.hex(0x1000 | (groups >> shift & 0xfff), 4);
            }
            doc.raw(b"::1");
        }
        Type::Domain => {
            if draws.below(3) == 0 {
                doc.escaped(HOSTS[draws.index(HOSTS.len())]);
            }
            doc.word(permute(ordinal, 36, key), 6);
            doc.raw(b".");
            doc.escaped(TLDS[draws.index(TLDS.len())]);
        }
        Type::Url => {
            doc.raw(if draws.below(3) == 0 { b"http://" } else { b"https://" });
            doc.word(draws.below(1 << 24), 4);
            doc.raw(b".");
            doc.escaped(TLDS[draws.index(TLDS.len())]);
            if draws.below(12) == 0 {
                doc.raw(b":");
                doc.number(8000 + draws.below(1000));
            }
            doc.raw(b"/");
            doc.escaped(FOLDERS[draws.index(FOLDERS.len())]);
            doc.raw(b"/");
            doc.hex(permute(ordinal, 40, key), 10);
            doc.escaped(ENDINGS[draws.index(ENDINGS.len())]);
            match draws.below(100) {
                0 => doc.escaped("?q=\"x\\y\"&s=1"),
                1 => doc.escaped("?name=caf\u{e9}"),
                2..25 => {
                    doc.raw(b"?id=");
                    doc.number(draws.below(1 << 30));
                    doc.raw(b"&t=1");
                }
                _ => {}
            }
        }
        Type::File => {
            doc.digest(unique, [32, 40, 64, 64, 64, 32, 64, 40][(ordinal % 8) as usize]);
        }
        Type::Email => {
            doc.word(permute(ordinal, 30, key), 5);
            doc.raw(b"@");
            doc.word(draws.below(1 << 18), 3);
            doc.raw(b".");
            doc.escaped(TLDS[draws.index(TLDS.len())]);
        }
        Type::Cve => {
            doc.raw(b"CVE-");
            doc.number(2026 - ordinal % CVE_YEARS);
            doc.raw(b"-");
            doc.number(1000 + ordinal / CVE_YEARS);
        }
        Type::Account => {
            doc.word(permute(ordinal, 30, key), 5);
        }
        Type::RegistryKey => {
            doc.escaped("HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\");
            doc.raw(if draws.below(2) == 0 { b"Run\\\\" } else { b"RunOnce\\\\" });
            doc.name(permute(ordinal, 36, key), 6);
        }
        Type::Asn => doc.number(1 + permute(ordinal, 31, key)),
        Type::Malware | Type::Software => doc.name(permute(ordinal, 30, key), 5),
        Type::AttackPattern => {
            doc.name(permute(ordinal, 30, key), 5);
            doc.raw(b" Technique");
        }
        Type::ThreatActor => {
            doc.name(permute(ordinal, 30, key), 5);
            doc.raw(b" Group");
        }
        Type::Report => {
            doc.raw(b"Report on ");
            doc.name(permute(ordinal, 30, key), 5);
        }
        Type::Certificate => doc.hex(unique, 16),
    }
}

/// The custom fields that only some types have. `value` is where the value stands in `doc.out`, with its quotes.
fn write_custom(
    kind: Type,
    ordinal: u64,
    key: u64,
    value: std::ops::Range<usize>,
    first_seen: u64,
    draws: &mut Draws,
    doc: &mut Document<'_>,
) {
    match kind {
        Type::Ip | Type::Cidr | Type::Ipv6 => {
            doc.raw(b",\"geocountry\":");
            doc.text(COUNTRIES[draws.index(COUNTRIES.len())]);
            if draws.below(2) == 0 {
                doc.raw(b",\"asn\":\"AS");
                doc.number(1000 + draws.below(60_000));
                doc.raw(b"\",\"port\":");
                doc.number([22, 80, 443, 3389, 8080][draws.index(5)]);
            }
        }
        Type::Domain | Type::Url => {
            doc.raw(b",\"category\":");
            doc.text(["malware", "phishing", "suspicious", "parked"][draws.index(4)]);
            if draws.below(3) == 0 {
                doc.raw(b",\"registrarname\":");
                doc.text(["Registrar One, Inc.", "Noms & Cie", "DomainHaus GmbH"][draws.index(3)]);
            }
        }
        Type::File => {
            let own = value.len() - 2;
            if draws.below(5) < 2 {
                for (name, length) in [("md5", 32), ("sha1", 40), ("sha256", 64)] {
                    doc.key(name);
                    if length == own {
                        doc.out.extend_from_within(value.clone());
                    } else {
                        doc.raw(b"\"");
                        doc.digest(mix(ordinal ^ key) ^ length as u64, length);
                        doc.raw(b"\"");
                    }
                }
            }
            doc.raw(b",\"size\":");
            doc.number(1_000 + draws.below(1 << 22));
            doc.raw(b",\"filetype\":");
            doc.text(["PE32 executable", "PDF", "Zip archive", "HTML", "ELF 64-bit"][draws.index(5)]);
        }
        Type::Account => {
            doc.raw(b",\"accounttype\":");
            doc.text(["unix", "windows-domain", "windows-local"][draws.index(3)]);
            doc.raw(b",\"userid\":\"");
            doc.number(1000 + ordinal);
            doc.raw(b"\"");
        }
        Type::RegistryKey => {
            doc.raw(b",\"keyvalue\":[{\"name\":\"Update\",\"type\":\"REG_SZ\",\"data\":\"C:\\\\ProgramData\\\\");
            doc.word(draws.below(1 << 24), 4);
            doc.raw(b".exe\"}]");
        }
        Type::Asn => {
            doc.raw(b",\"name\":\"");
            doc.name(draws.below(1 << 24), 4);
            doc.raw(b" Networks\"");
        }
        Type::Malware => {
            doc.raw(b",\"ismalwarefamily\":");
            doc.raw(if draws.below(2) == 0 { b"true" } else { b"false" });
        }
        Type::AttackPattern => {
            doc.raw(b",\"mitreid\":\"T");
            doc.number(1000 + ordinal / 10);
            doc.raw(b".00");
            doc.number(ordinal % 10);
            doc.raw(b"\"");
        }
        Type::Report => doc.time("published", first_seen, false),
        Type::Certificate => {
            doc.raw(b",\"subject\":[{\"title\":\"CN\",\"data\":\"");
            doc.word(draws.below(1 << 30), 5);
            doc.raw(b".com\"}],\"issuer\":[{\"title\":\"CN\",\"data\":\"Example CA ");
            doc.number(draws.below(9));
            doc.raw(b"\"},{\"title\":\"O\",\"data\":\"Example Trust\"}]");
            doc.time("validitynotbefore", first_seen, false);
            doc.time("validitynotafter", first_seen + (90 + draws.below(640)) * DAY, false);
        }
        Type::Email | Type::Cve | Type::ThreatActor | Type::Software => {}
    }
}

/// Appends JSON to a buffer.
struct Document<'a> {
    out: &'a mut Vec<u8>,
}

impl Document<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// `,"name":`
    fn key(&mut self, name: &str) {
        self.raw(b",\"");
        self.raw(name.as_bytes());
        self.raw(b"\":");
    }

    fn text(&mut self, text: &str) {
        self.raw(b"\"");
        self.escaped(text);
        self.raw(b"\"");
    }

    /// Text without its quotes. The tables above hold no control characters.
    fn escaped(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            if byte == b'"' || byte == b'\\' {
                self.out.push(b'\\');
            }
            self.out.push(byte);
        }
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }

    /// The lowest `digits` hexadecimal digits.
    fn hex(&mut self, number: u64, digits: u32) {
        for place in (0..digits).rev() {
            self.out.push(b"0123456789abcdef"[(number >> (4 * place) & 15) as usize]);
        }
    }

    /// `length` hexadecimal digits, the first sixteen of them `unique`.
    fn digest(&mut self, unique: u64, length: usize) {
        let end = self.out.len() + length;
        let mut word = unique;
        while self.out.len() < end {
            self.hex(word, 16);
            word = mix(word.wrapping_add(1));
        }
        self.out.truncate(end);
    }

    /// The first `bits` bits of an IPv4 address, the rest zero.
    fn address(&mut self, network: u64, bits: u32) {
        let address = network << (32 - bits);
        for shift in [24, 16, 8, 0] {
            self.number(address >> shift & 255);
            if shift > 0 {
                self.raw(b".");
            }
        }
    }

    /// `syllables` syllables, six bits each.
    fn word(&mut self, number: u64, syllables: u32) {
        for place in (0..syllables).rev() {
            let syllable = (number >> (6 * place) & 63) as usize;
            self.out.push(b"bcdfghklmnprstvz"[syllable / 4]);
            self.out.push(b"aeio"[syllable % 4]);
        }
    }

    /// A word with a capital.
    fn name(&mut self, number: u64, syllables: u32) {
        let start = self.out.len();
        self.word(number, syllables);
        self.out[start].make_ascii_uppercase();
    }

    /// `,"name":"<time>"`, `micros` counted from [`EPOCH_SECONDS`]; nine fraction digits when `nanos`, else six.
    fn time(&mut self, name: &str, micros: u64, nanos: bool) {
        let seconds = EPOCH_SECONDS + micros / 1_000_000;
        let (year, month, day) = civil(seconds / 86_400);
        self.key(name);
        self.raw(b"\"");
        self.padded(year, 4, b"-");
        self.padded(month, 2, b"-");
        self.padded(day, 2, b"T");
        self.padded(seconds / 3600 % 24, 2, b":");
        self.padded(seconds / 60 % 60, 2, b":");
        self.padded(seconds % 60, 2, b".");
        self.padded(micros % 1_000_000, 6, if nanos { b"417Z\"" } else { b"Z\"" });
    }

    fn padded(&mut self, number: u64, width: u32, after: &[u8]) {
        for place in (0..width).rev() {
            self.out.push(b'0' + (number / 10u64.pow(place) % 10) as u8);
        }
        self.raw(after);
    }
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years counted from March put the leap day last; 719,468 days lie between 0000-03-01 and 1970-01-01.
    let day = days + 719_468;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = day / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// A splitmix generator.
struct Draws(u64);

impl Draws {
    /// Below `limit`, which is less than 2^63. The bias is below one in a million for every limit used here.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.0)) * u128::from(limit)) >> 64) as u64
    }

    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// Bijective on 64 bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Bijective on numbers of `bits` bits; a larger `number` comes round again.
fn permute(number: u64, bits: u32, key: u64) -> u64 {
    let mask = (1 << bits) - 1;
    let mut x = number & mask;
    for round in 0..3 {
        x = x.wrapping_add(key.rotate_left(round * 17)) & mask;
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
        x ^= x >> (bits / 2);
    }
    x
}

/// First octets in use: public unicast space without 10 and 127.
const OCTETS: u64 = 221;

/// Bijective on the networks of `bits` bits whose first octet is in use, by walking past those that are not.
fn permute_network(number: u64, bits: u32, key: u64) -> u64 {
    let rest = bits - 8;
    let mut x = number % (OCTETS << rest);
    loop {
        x = permute(x, bits, key);
        if x < OCTETS << rest {
            break;
        }
    }
    let octet = match x >> rest {
        low @ 0..9 => low + 1,
        middle @ 9..125 => middle + 2,
        high => high + 3,
    };
    octet << rest | x & ((1 << rest) - 1)
}
