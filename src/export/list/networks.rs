//! The addresses of a list, where they are put together or sorted.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::item::network_into;

/// Addresses and networks of both versions, in the order they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Networks {
    pub(super) v4: Vec<Ipv4Net>,
    pub(super) v6: Vec<Ipv6Net>,
}

impl Networks {
    pub(super) fn append(&mut self, mut others: Networks) {
        self.v4.append(&mut others.v4);
        self.v6.append(&mut others.v6);
    }

    /// Leaves out the first so many of each.
    pub(super) fn without_first(mut self, v4: usize, v6: usize) -> Self {
        self.v4.drain(..v4.min(self.v4.len()));
        self.v6.drain(..v6.min(self.v6.len()));
        self
    }

    /// The fewest networks that hold exactly the same addresses, in order.
    pub(super) fn aggregated(self) -> Self {
        Networks { v4: Ipv4Net::aggregate(&self.v4), v6: Ipv6Net::aggregate(&self.v6) }
    }

    /// In order, each once.
    pub(super) fn sorted(mut self) -> Self {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
        self
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Their lines, in pieces of about so many.
    pub(super) fn pieces(&self, lines: usize) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        let written = move |nets: &mut dyn Iterator<Item = IpNet>| {
            let mut out = Vec::with_capacity(lines * 16);
            nets.for_each(|net| network_into(&net, &mut out));
            out
        };
        let v4 = self.v4.chunks(lines).map(move |nets| written(&mut nets.iter().map(|net| IpNet::V4(*net))));
        let v6 = self.v6.chunks(lines).map(move |nets| written(&mut nets.iter().map(|net| IpNet::V6(*net))));
        v4.chain(v6)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn lines(networks: &Networks) -> Vec<String> {
        networks
            .pieces(2)
            .flat_map(|piece| String::from_utf8(piece).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn of(texts: &[&str]) -> Networks {
        let mut networks = Networks::default();
        for text in texts {
            match text.parse().unwrap_or_else(|_| IpNet::from(text.parse::<std::net::IpAddr>().unwrap())) {
                IpNet::V4(net) => networks.v4.push(net.trunc()),
                IpNet::V6(net) => networks.v6.push(net.trunc()),
            }
        }
        networks
    }

    #[test]
    fn neighbours_become_networks() {
        let cases: [(&[&str], &[&str]); 7] = [
            (&["192.0.2.1", "192.0.2.0"], &["192.0.2.0/31"]),
            (&["192.0.2.1", "192.0.2.2"], &["192.0.2.1", "192.0.2.2"]),
            (&["10.0.0.0/8", "10.1.2.3", "10.1.0.0/16"], &["10.0.0.0/8"]),
            (&["0.0.0.0/1", "128.0.0.0/1"], &["0.0.0.0/0"]),
            (&["255.255.255.254", "255.255.255.255"], &["255.255.255.254/31"]),
            (&["2001:db8::1", "192.0.2.1", "2001:db8::"], &["192.0.2.1", "2001:db8::/127"]),
            (&["192.0.2.1", "192.0.2.1"], &["192.0.2.1"]),
        ];
        for (given, expected) in cases {
            assert_eq!(lines(&of(given).aggregated()), expected);
        }
        assert_eq!(
            lines(&of(&["192.0.2.9", "2001:db8::1", "10.0.0.1", "192.0.2.9"]).sorted()),
            ["10.0.0.1", "192.0.2.9", "2001:db8::1"]
        );
    }

    proptest! {
        /// The addresses from 10.0.0.0 on that are held, by brute force.
        #[test]
        fn aggregation_holds_exactly_the_same_addresses(
            nets in prop::collection::vec((0u32..256, 24u8..=32), 0..40),
            nets_6 in prop::collection::vec((0u128..256, 120u8..=128), 0..40),
        ) {
            let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
            let base_6 = u128::from("2001:db8::".parse::<Ipv6Addr>().unwrap());
            let given = Networks {
                v4: nets.iter().map(|(host, prefix)| Ipv4Net::new((base + host).into(), *prefix).unwrap().trunc()).collect(),
                v6: nets_6.iter().map(|(host, prefix)| Ipv6Net::new((base_6 + host).into(), *prefix).unwrap().trunc()).collect(),
            };
            let held = |networks: &Networks| {
                let v4: Vec<bool> = (0..512).map(|host| networks.v4.iter().any(|net| net.contains(&Ipv4Addr::from(base - 128 + host)))).collect();
                let v6: Vec<bool> = (0..512).map(|host| networks.v6.iter().any(|net| net.contains(&Ipv6Addr::from(base_6 - 128 + host)))).collect();
                (v4, v6)
            };
            let before = held(&given);
            let aggregated = given.clone().aggregated();
            prop_assert_eq!(held(&aggregated), before);
            // No two of them overlap or could be one.
            prop_assert_eq!(lines(&aggregated.clone().aggregated()), lines(&aggregated));
            let ends: Vec<(u32, u32)> = aggregated.v4.iter().map(|net| (net.network().into(), net.broadcast().into())).collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0));
            prop_assert!(aggregated.len() <= given.len());
        }
    }
}
