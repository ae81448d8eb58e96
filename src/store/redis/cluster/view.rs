//! How nodes of a Cluster see it, put together: of two claims to a slot the one with the later configuration epoch is right, as
//! it is among the nodes themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::slot::SLOTS;
use crate::store::redis::settings::Address;

/// One node's view.
#[derive(Debug, Default)]
pub(super) struct View {
    nodes: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    address: Option<Address>,
    /// What other nodes call it when they send somebody there.
    alias: Option<Address>,
    primary: bool,
    /// Found to have failed, by most primaries.
    failed: bool,
    /// The later it is, the more it counts; of two at one epoch, what a node says of itself.
    weight: (u64, bool),
    slots: Vec<(u16, u16)>,
}

/// Who has which slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The primaries that are to be followed, in order.
    pub(super) primaries: Vec<Address>,
    /// For each slot the position of its primary.
    pub(super) owners: Vec<Option<u16>>,
    /// All nodes, replicas too: what others call them, and what they are called here.
    pub(super) names: BTreeMap<Address, Address>,
}

impl View {
    /// Reads the answer to `CLUSTER NODES` of the node at `from`. Lines that cannot be read are passed over.
    pub(super) fn read(text: &str, from: &Address) -> Self {
        Self { nodes: text.lines().filter_map(|line| Entry::read(line, from)).collect() }
    }
}

impl Entry {
    /// `<id> <ip:port@cport[,hostname…]> <flags> <primary> <ping> <pong> <epoch> <link> <slot> …`
    fn read(line: &str, from: &Address) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        let epoch: u64 = words.nth(3)?.parse().ok()?;
        let slots = words.skip(1).filter_map(range).collect();
        let flags: Vec<_> = flags.split(',').collect();
        let reachable = !flags.iter().any(|flag| matches!(*flag, "handshake" | "noaddr"));
        Some(Self {
            id: id.to_owned(),
            address: reachable.then(|| place(address, from)).flatten(),
            alias: address.split('@').next().and_then(|address| address.parse().ok()),
            primary: flags.contains(&"master"),
            failed: flags.contains(&"fail"),
            weight: (epoch, flags.contains(&"myself")),
            slots,
        })
    }
}

/// `5` or `0-5460`; slots under way are in brackets and still belong to whoever gives them away.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let range = (first.parse().ok()?, last.parse().ok()?);
    (range.0 <= range.1 && usize::from(range.1) < SLOTS).then_some(range)
}

/// A node that has never been talked to does not know its own address. Certificates are for hostnames, where there are any.
fn place(text: &str, from: &Address) -> Option<Address> {
    let mut parts = text.split(',');
    let Address::Tcp(host, port) = parts.next()?.split('@').next()?.parse().ok()? else { return None };
    let hostname = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
    match (hostname, &*host, from) {
        (Some(name), ..) => Some(Address::Tcp(name.into(), port)),
        (None, "", Address::Tcp(host, _)) => Some(Address::Tcp(host.clone(), port)),
        (None, "", Address::Unix(_)) => None,
        (None, ..) => Some(Address::Tcp(host, port)),
    }
}

impl Layout {
    /// What these views come to; `None` if none of them knows a primary.
    pub(super) fn of(views: &[&View]) -> Option<Self> {
        let mut latest = HashMap::<&str, &Entry>::new();
        for entry in views.iter().flat_map(|view| &view.nodes) {
            let known = latest.entry(&entry.id).or_insert(entry);
            if entry.weight > known.weight {
                *known = entry;
            }
        }
        let mut claims = vec![None::<((u64, bool), &Address)>; SLOTS];
        for entry in latest.values().filter(|entry| entry.primary) {
            let Some(address) = &entry.address else { continue };
            for (first, last) in &entry.slots {
                for claim in &mut claims[usize::from(*first)..=usize::from(*last)] {
                    *claim = (*claim).max(Some((entry.weight, address)));
                }
            }
        }
        // Nodes without slots too: one may be given some, and written to, before anybody else is told.
        let alive =
            latest.values().filter(|entry| entry.primary && !entry.failed).filter_map(|entry| entry.address.as_ref());
        let primaries: BTreeSet<_> = alive.chain(claims.iter().flatten().map(|(_, address)| *address)).collect();
        let positions: BTreeMap<_, _> = primaries.iter().copied().zip(0_u16..).collect();
        let owners =
            claims.iter().map(|claim| claim.and_then(|(_, address)| positions.get(address).copied())).collect();
        let name = |entry: &&Entry| Some((entry.alias.clone()?, entry.address.clone()?));
        let names = latest.values().filter_map(name).collect();
        (!primaries.is_empty()).then(|| Self { primaries: primaries.into_iter().cloned().collect(), owners, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp("10.0.0.1".into(), port)
    }

    fn layout(views: &[&str]) -> Layout {
        let views: Vec<_> = views.iter().map(|text| View::read(text, &at(1))).collect();
        Layout::of(&views.iter().collect::<Vec<_>>()).unwrap()
    }

    fn owner(layout: &Layout, slot: usize) -> Option<Address> {
        layout.owners[slot].map(|position| layout.primaries[usize::from(position)].clone())
    }

    const A: &str = "a 10.0.0.1:1@10001 myself,master - 0 0 1 connected 0-100 [5->-b]\n";
    const B: &str = "b 10.0.0.1:2@10002,b.test master - 0 0 2 connected 101-16383\n";

    #[test]
    fn lines_are_read() {
        let layout = layout(&[&format!("{A}{B}c 10.0.0.1:3@10003 slave b 0 0 2 connected\nnonsense\n\n")]);
        let b = Address::Tcp("b.test".into(), 2);
        assert_eq!(layout.primaries, [at(1), b.clone()]);
        assert_eq!(
            [0, 5, 100, 101, 16383].map(|slot| owner(&layout, slot)),
            [at(1), at(1), at(1), b.clone(), b].map(Some)
        );
        assert_eq!(layout.names[&at(3)], at(3));
        assert_eq!(layout.names[&at(2)], layout.primaries[1], "by its hostname, whatever others call it");
    }

    #[test]
    fn a_node_without_an_address_is_where_it_was_asked() {
        let layout = layout(&["a :1@10001 myself,master - 0 0 0 connected 0-5\n"]);
        assert_eq!(layout.primaries, [at(1)]);
        assert_eq!((owner(&layout, 5), owner(&layout, 6)), (Some(at(1)), None));
    }

    #[test]
    fn the_later_epoch_is_right() {
        // c took over from a, which does not know yet.
        let new = "c 10.0.0.1:3@10003 myself,master - 0 0 7 connected 0-100\na 10.0.0.1:1@10001 master,fail - 0 0 1 connected\n";
        for views in [[A, new], [new, A]] {
            let layout = layout(&views);
            assert_eq!(owner(&layout, 0), Some(at(3)), "{layout:?}");
        }
        // a became its replica: its line has the epoch of c.
        let demoted =
            "c 10.0.0.1:3@10003 master - 0 0 7 connected 0-100\na 10.0.0.1:1@10001 myself,slave c 0 0 7 connected\n";
        let layout = layout(&[A, demoted]);
        assert_eq!(layout.primaries, [at(3)]);
    }

    #[test]
    fn at_one_epoch_a_node_knows_itself_best() {
        let moved = "a 10.0.0.1:1@10001 myself,master - 0 0 1 connected 1-100\nb 10.0.0.1:2@10002 master - 0 0 2 connected 101-16383\n";
        let taken = "b 10.0.0.1:2@10002 myself,master - 0 0 2 connected 0 101-16383\na 10.0.0.1:1@10001 master - 0 0 1 connected 0-100\n";
        let behind = "c 10.0.0.1:3@10003 myself,master - 0 0 3 connected\na 10.0.0.1:1@10001 master - 0 0 1 connected 0-100\n\
                      b 10.0.0.1:2@10002 master - 0 0 2 connected 101-16383\n";
        for views in [[moved, taken, behind], [behind, taken, moved]] {
            assert_eq!(owner(&layout(&views), 0), Some(at(2)));
        }
    }

    #[test]
    fn who_failed_is_followed_only_while_it_has_slots() {
        let failed = "a 10.0.0.1:1@10001 master,fail - 0 0 1 connected 0-5\nb 10.0.0.1:2@10002 master,fail - 0 0 2 connected\n\
                      c 10.0.0.1:3@10003 myself,master - 0 0 3 connected\nd 10.0.0.1:4@10004 handshake,master - 0 0 0 connected\n";
        assert_eq!(layout(&[failed]).primaries, [at(1), at(3)], "a new primary without slots is followed too");
    }
}
