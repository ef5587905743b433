//! One history: devices join, things go wrong, and when fair weather comes, everything that can be
//! well must be well.

use std::collections::BTreeSet;
use std::time::Duration;

use ginnel::api::{NetworkState, Request, Response};

use super::acts::reaches;
use super::dht::Manners;
use super::disk::Trouble;
use super::net::{SiteId, Weather};
use super::oracle::must_connect;
use super::plan::{Act, MAX_DEVICES, Place, Plan, Step, Who};
use super::survey::Survey;
use super::world::{DeviceNo, World};

/// In so much fair weather everybody finds everybody: two rounds of whatever is tried each minute,
/// and the time for which it must be well.
const FAIR_FOR: Duration = Duration::from_secs(240);

/// Devices that are connected hold the same ops after this time.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);

/// A path that died, because a router has another address and nobody can tell, is noticed by the
/// checks that keep it open: 35 s until the side that does not lead checks, 4 s until it is given up,
/// and a few to look around.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);

/// Where all is well, a packet arrives within this time.
const ARRIVES_WITHIN: Duration = Duration::from_secs(2);

const SECOND: Duration = Duration::from_secs(1);

/// A join ends in this time, in whatever weather: what `join` allows it, and a little.
const JOINED_WITHIN: Duration = Duration::from_secs(125);

/// When somebody looks after a join that is not done yet, at the admin's device too.
const ADMIN_ASKED_AFTER: Duration = Duration::from_secs(15);

/// The device that founds the network and admits the others.
const FOUNDER: DeviceNo = DeviceNo(0);

/// Lives the history of these bytes, to its end or to the first thing that must not be. Its trace.
pub fn live(bytes: &[u8]) -> u64 {
    History::new(Plan::read(bytes)).run()
}

struct History {
    world: World,
    plan: Plan,
    /// The devices of which the removal was asked for; the founder may have lost its power before
    /// it was done.
    sentenced: BTreeSet<DeviceNo>,
    /// The devices of which the founder said that they are removed.
    removed: BTreeSet<DeviceNo>,
    /// The member that lies; what becomes of it is its own affair.
    hostile: Option<DeviceNo>,
    /// The carrier's network that sites behind two NATs share.
    carrier: Option<SiteId>,
}

impl History {
    fn new(plan: Plan) -> Self {
        let world = World::new(plan.seed, plan.weather);
        Self {
            world,
            plan,
            sentenced: BTreeSet::new(),
            removed: BTreeSet::new(),
            hostile: None,
            carrier: None,
        }
    }

    fn run(mut self) -> u64 {
        let site = self.site_of(self.plan.founder);
        self.world.create(site, "d0");
        for Step { act, seed, talk } in std::mem::take(&mut self.plan.steps) {
            self.say(&format!("{act:?}"));
            self.act(act, seed);
            for (from, to, pause) in talk {
                let (from, to) = (self.device(from), self.device(to));
                if from != to {
                    self.world.send_between(from, to);
                }
                self.world.run_for(pause);
            }
        }
        self.clear_up();
        self.world.checks.trace()
    }

    fn act(&mut self, act: Act, seed: u64) {
        let world = &mut self.world;
        let now = world.elapsed();
        let pick = |who: Who| DeviceNo(usize::from(who) % world.nodes.len());
        match act {
            Act::Calm => {}
            Act::Join(place, crash) => self.join(place, crash),
            Act::Revoke(who) => self.revoke(who),
            Act::Crash(who) => world.crash_and_restart(pick(who)),
            Act::CrashAfter(who, outputs, written) => {
                let device = pick(who);
                world.nodes[device.0].fail_after(outputs, written);
            }
            Act::Renumber(who) => {
                if let Some(site) = world.net.site_of(world.nodes[pick(who).0].host) {
                    world.net.renumber(site);
                }
            }
            Act::RestartRouter(who) => {
                if let Some(site) = world.net.site_of(world.nodes[pick(who).0].host) {
                    world.net.restart_router(site);
                }
            }
            Act::Cut(who, time) => {
                let host = world.nodes[pick(who).0].host;
                world.net.cut(host, now + time);
            }
            Act::CutSite(who, time) => {
                if let Some(site) = world.net.site_of(world.nodes[pick(who).0].host) {
                    world.net.cut_site(site, now + time);
                }
            }
            Act::Move(who, place) => {
                let device = pick(who);
                let site = self.site_of(place);
                let host = self.world.nodes[device.0].host;
                self.world.net.move_host(host, site);
                self.world.links_changed(device);
            }
            Act::Weather(weather) => world.net.weather = weather,
            Act::Disk(who, trouble) => {
                let device = pick(who);
                world.nodes[device.0].disk.trouble = trouble;
            }
            Act::RollBack(who, writes) => {
                let device = pick(who);
                if device != FOUNDER {
                    world.nodes[device.0].disk.roll_back(usize::from(writes));
                    world.crash_and_restart(device);
                }
            }
            Act::Clock(who, wrong_by) => {
                let device = pick(who);
                world.set_clock(device, wrong_by);
            }
            Act::Dht(manners) => world.dht.manners = manners,
            Act::Attack(who, attack) => {
                let victim = pick(who);
                let villain = DeviceNo(1);
                if world.nodes.len() > 1 && victim != villain {
                    self.hostile = Some(villain);
                    world.attack(villain, victim, attack, seed);
                }
            }
        }
    }

    fn device(&self, who: Who) -> DeviceNo {
        DeviceNo(usize::from(who) % self.world.nodes.len())
    }

    fn site_of(&mut self, place: Place) -> Option<SiteId> {
        let net = &mut self.world.net;
        match place {
            Place::Open => None,
            Place::With(_) if self.world.nodes.is_empty() => None,
            Place::With(who) => {
                let with = &self.world.nodes[usize::from(who) % self.world.nodes.len()];
                net.site_of(with.host)
            }
            Place::Behind(nat, None) => Some(net.site(nat)),
            Place::Behind(nat, Some(outer)) => {
                let carrier = *self.carrier.get_or_insert_with(|| net.site(outer));
                Some(net.site_within(nat, carrier))
            }
        }
    }

    /// A device joins, from where the founder can be reached.
    fn join(&mut self, place: Place, crash: Option<(u8, u8)>) {
        if self.world.nodes.len() == MAX_DEVICES {
            return;
        }
        let mut site = self.site_of(place);
        let net = &self.world.net;
        let founder = net.situation(net.site_of(self.world.nodes[FOUNDER.0].host));
        if !must_connect(&net.situation(site), &founder) {
            site = None;
        }
        self.mend(FOUNDER);
        let Some(token) = self.invite() else { return };
        let name = format!("d{}", self.world.nodes.len());
        let (device, _) = self.world.join(site, &name, &token);
        if let Some((outputs, written)) = crash {
            self.world.nodes[device.0].fail_after(outputs, written);
        }
        let end = self.world.elapsed() + JOINED_WITHIN;
        let done = |world: &World| {
            let node = &world.nodes[device.0];
            node.gone || node.status(world.now()).state == NetworkState::Up
        };
        let asked = self.world.elapsed() + ADMIN_ASKED_AFTER;
        self.world.run_until(ADMIN_ASKED_AFTER, done);
        if self.world.elapsed() >= asked {
            // An admin that crashed meanwhile, and meets nobody, asks its human.
            self.ask_for_invite(true);
        }
        while !done(&self.world) && self.world.elapsed() < end {
            self.world.run_for(Duration::from_millis(250));
        }
        let up = done(&self.world);
        let node = &self.world.nodes[device.0];
        if !up || node.gone && crash.is_none() {
            self.world.checks.fail(&format!("{device:?} could not join: {:?}", node.answers));
        }
    }

    /// A device's disk and clock, and the DHT, are as they should be.
    fn mend(&mut self, device: DeviceNo) {
        self.world.dht.manners = Manners::FAIR;
        self.world.nodes[device.0].disk.trouble = Trouble::None;
        if self.world.nodes[device.0].clock != 0 {
            self.world.set_clock(device, 0);
        }
    }

    /// A new invite, as soon as the founder gives one.
    fn invite(&mut self) -> Option<String> {
        for second in 0..20 {
            // An admin that meets nobody after a start asks its human.
            if let Some(invite) = self.ask_for_invite(second >= 10) {
                return Some(invite);
            }
            self.world.run_for(SECOND);
        }
        self.world.checks.fail("the founder gives no invite")
    }

    fn ask_for_invite(&mut self, offline: bool) -> Option<String> {
        let (network, name) = (None, None);
        let request = Request::Invite { network, name, expires_s: 3600, admin: false, offline };
        let id = self.world.ask(FOUNDER, request);
        match self.world.nodes[FOUNDER.0].answer(id) {
            Some(Response::Invited(invited)) => Some(invited.invite.clone()),
            _ => None,
        }
    }

    fn revoke(&mut self, who: Who) {
        let device = self.device(who);
        if device != FOUNDER {
            let name = format!("d{}", device.0);
            let request = Request::Revoke { device: name, reason: None, offline: who >= 128 };
            let id = self.world.ask(FOUNDER, request);
            self.sentenced.insert(device);
            if let Some(Response::Done) = self.world.nodes[FOUNDER.0].answer(id) {
                self.removed.insert(device);
            }
        }
    }

    /// The weather is fair, and all becomes well.
    fn clear_up(&mut self) {
        self.say("fair weather");
        self.world.net.weather = Weather::FAIR;
        self.world.net.heal();
        for device in (0..self.world.nodes.len()).map(DeviceNo) {
            self.mend(device);
            self.world.nodes[device.0].stay_on();
        }
        self.settle_down();
        for (from, to) in self.survey().pairs {
            if !reaches(&mut self.world, from, to, ARRIVES_WITHIN) {
                self.world.checks.fail(&format!("{from:?} is connected with {to:?} in vain"));
            }
        }
    }

    fn survey(&self) -> Survey {
        Survey::take(&self.world, &self.sentenced, self.hostile)
    }

    /// Who is not where it should be, or is where it should not be.
    fn misplaced(&self, survey: &Survey) -> Option<String> {
        let back = self.removed.iter().find(|device| survey.knows(FOUNDER, **device));
        let back = back.map(|device| format!("the founder removed {device:?} and has it still"));
        let nodes = self.world.nodes.iter().enumerate().skip(1).filter(|(_, node)| !node.gone);
        let mut members = nodes.map(|(number, _)| DeviceNo(number));
        let lost = members.find(|d| !self.sentenced.contains(d) && !survey.knows(FOUNDER, *d));
        let lost = lost.map(|device| format!("the founder has {device:?} no more"));
        back.or(lost).or_else(|| survey.apart())
    }

    /// Runs until everything has been well for so long that no path can be dead unnoticed.
    fn settle_down(&mut self) {
        let end = self.world.elapsed() + FAIR_FOR;
        let (mut connected, mut well) = (Duration::ZERO, Duration::ZERO);
        while well < NOTICED_WITHIN {
            let survey = self.survey();
            let (apart, unequal) = (self.misplaced(&survey), survey.unequal(&self.world));
            let fault = apart.clone().or(unequal.clone());
            let late = connected >= EQUAL_WITHIN && unequal.is_some();
            if let Some(fault) = &fault
                && (late || self.world.elapsed() >= end)
            {
                self.world.checks.fail(fault);
            }
            self.world.run_for(SECOND);
            connected = if apart.is_none() { connected + SECOND } else { Duration::ZERO };
            well = if fault.is_none() { well + SECOND } else { Duration::ZERO };
        }
    }

    fn say(&self, what: &str) {
        if std::env::var_os("SIM_TRACE").is_some() {
            println!("{:9.3} {what}", self.world.elapsed().as_secs_f64());
        }
    }
}
