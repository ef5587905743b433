//! Circles on which the members stand: who is beside whom, without a word.
//!
//! On each of [`RINGS`] circles the members stand in the order of some bytes of their ids. Whoever has the
//! same roster has the same circles, so that two members know of each other that they stand side by side.
//! Making them is O(n log n) in the members, looking at one place O(log n).

use std::collections::BTreeSet;

use crate::identity::DeviceId;

/// How many circles there are, by eight bytes of an id each.
pub const RINGS: usize = 4;

/// The members on every circle.
#[derive(Debug, Default)]
pub struct Rings {
    /// Every member.
    members: Box<[DeviceId]>,
    /// Each circle from its beginning, as numbers of `members`.
    rings: [Box<[u32]>; RINGS],
}

impl Rings {
    /// The circles of these members.
    pub fn of(members: impl Iterator<Item = DeviceId>) -> Self {
        let members: Box<[DeviceId]> = members.collect();
        let all = 0..u32::try_from(members.len()).expect("a roster has 10,000 members at most");
        let rings = std::array::from_fn(|ring| {
            let mut order: Box<[u32]> = all.clone().collect();
            order.sort_unstable_by_key(|at| {
                let member = &members[*at as usize];
                (place(ring, member), *member)
            });
            order
        });
        Self { members, rings }
    }

    /// The members next to this one, on both sides of it on each circle. It need be no member itself.
    pub fn beside(&self, this: &DeviceId) -> BTreeSet<DeviceId> {
        let mut beside = BTreeSet::new();
        for (ring, order) in self.rings.iter().enumerate() {
            let own = place(ring, this);
            let member = |at: &u32| self.members[*at as usize];
            let (before, after) =
                order.split_at(order.partition_point(|at| place(ring, &member(at)) <= own));
            // Round the circle: the first and the last are side by side.
            let mut onwards = after.iter().chain(before).map(member);
            let mut backwards = before.iter().rev().chain(after.iter().rev()).map(member);
            beside.extend(onwards.find(|other| other != this));
            beside.extend(backwards.find(|other| other != this));
        }
        beside
    }
}

/// How far two stand apart on the circle on which they are nearest, of 2^64 all round. It needs no roster.
pub fn distance(one: &DeviceId, other: &DeviceId) -> u64 {
    let on_ring = |ring| {
        let onwards = place(ring, one).wrapping_sub(place(ring, other));
        onwards.min(onwards.wrapping_neg())
    };
    (0..RINGS).map(on_ring).min().unwrap_or_default()
}

/// Where a device stands on a circle. Ids are keys, in which every byte is as good as drawn by lot.
fn place(ring: usize, device: &DeviceId) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|at| device.0[8 * ring + at]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::identity::hash;

    pub fn devices(count: u8) -> Vec<DeviceId> {
        (0..count).map(|number| DeviceId(hash(&[number]))).collect()
    }

    #[test]
    fn who_is_beside_another_has_it_beside_itself_and_all_are_a_few_steps_apart() {
        let all = devices(200);
        let rings = Rings::of(all.iter().copied());
        for this in &all {
            let beside = rings.beside(this);
            assert!((2..=8).contains(&beside.len()));
            assert!(beside.iter().all(|other| rings.beside(other).contains(this)));
        }
        let mut reached = BTreeSet::from([all[0]]);
        // A single circle would take a hundred steps.
        for _ in 0..5 {
            reached.extend(reached.iter().flat_map(|at| rings.beside(at)).collect::<Vec<_>>());
        }
        assert_eq!(reached.len(), all.len());
    }

    #[test]
    fn two_members_are_side_by_side_and_one_is_alone() {
        let all = devices(2);
        let rings = Rings::of(all.iter().copied());
        assert_eq!(rings.beside(&all[0]), BTreeSet::from([all[1]]));
        assert!(Rings::of(all.iter().copied().take(1)).beside(&all[0]).is_empty());
        assert!(Rings::default().beside(&all[0]).is_empty());
    }

    #[test]
    fn members_at_one_place_stand_there_by_their_ids() {
        let at = |last: u8| {
            let mut id = [7; 32];
            id[31] = last;
            DeviceId(id)
        };
        // Three circles on which all have one place, and one that tells them apart.
        let all: Vec<_> = (0..6).map(at).collect();
        let rings = Rings::of(all.iter().copied());
        assert_eq!(rings.beside(&all[2]), BTreeSet::from([all[0], all[1], all[3], all[5]]));
    }

    #[test]
    fn who_is_no_member_is_told_who_it_would_stand_beside() {
        let all = devices(40);
        let without = Rings::of(all.iter().copied().skip(1));
        let with = Rings::of(all.iter().copied());
        assert_eq!(without.beside(&all[0]), with.beside(&all[0]));
    }

    #[test]
    fn distance_goes_the_shorter_way_round_the_circle_on_which_two_are_nearest() {
        let at = |places: [u64; RINGS]| {
            let bytes: Vec<_> = places.iter().flat_map(|place| place.to_be_bytes()).collect();
            DeviceId(bytes.try_into().expect("32 bytes"))
        };
        let one = at([10, 0, 1 << 63, 5 << 60]);
        assert_eq!(distance(&one, &at([1 << 62, u64::MAX, 0, 0])), 1);
        assert_eq!(distance(&one, &at([1 << 62, 1 << 62, 0, 1 << 60])), (1 << 62) - 10);
        assert_eq!(distance(&one, &one), 0);
    }
}
