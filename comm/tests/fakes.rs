//! Measuring and transports over devices that work, that fail and that hang: each is a CPU device
//! under another name.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_comm::{
    Channel, Endpoint, Inapplicable, LinkProfile, MeasureOptions, PeerCopy, Staged, Transport, ZeroCopy, host_id,
    measure, standard_transports,
};
use hetero_hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, Device, DeviceId, DeviceInfo, Driver, Edge, Error,
    ErrorKind, Executable, ExternalMemory, HostMemory, HostSemantics, OpenOptions, Point, Program, Queue, QueueOptions,
    Reach, Result, Source, Timeline, Work,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The device works as a device should.
    Sound,
    /// The device takes work, and never does it.
    Silent,
    /// The device does not come back from making a queue.
    Stuck,
    /// The device is lost when work is submitted.
    Lost,
    /// The device imports other memory than it was given.
    Forgetful,
    /// The device has memory for little.
    Small,
    /// The device imports nothing.
    Closed,
    /// The device imports nothing, and reads others' memory by copying.
    Peer,
}

struct Fake {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    capabilities: Capabilities,
    manner: Manner,
}

fn fake(ordinal: usize, manner: Manner) -> Arc<dyn Device> {
    let inner = hetero_cpu::CpuDriver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap();
    let mut info = inner.info().clone();
    info.id = DeviceId::new("fake", ordinal);
    let mut capabilities = inner.capabilities().clone();
    if [Manner::Closed, Manner::Peer].contains(&manner) {
        capabilities.imports.clear();
    }
    Arc::new(Fake { inner, info, capabilities, manner })
}

impl Device for Fake {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        self.inner.claims(program)
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        if self.manner == Manner::Small && layout.bytes > 16 << 10 {
            return Err(Error::new(ErrorKind::OutOfMemory, "full").on(self.info.id.clone()));
        }
        self.inner.allocate(layout)
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        match (self.manner, memory) {
            (Manner::Forgetful, ExternalMemory::Host(host)) => {
                self.inner.import(ExternalMemory::Host(HostMemory::allocate(host.len())?), semantics)
            }
            (_, memory) => self.inner.import(memory, semantics),
        }
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        if self.manner == Manner::Stuck {
            // This is far beyond every patience below, and ends before the test's own process does.
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(Arc::new(FakeQueue { inner: self.inner.queue(options)?, manner: self.manner, id: self.info.id.clone() }))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        self.inner.compile(source, options)
    }

    fn edge_to(&self, _: &DeviceInfo) -> Edge {
        let read = if self.manner == Manner::Peer { Reach::Copy } else { Reach::None };
        Edge { read, ..Edge::default() }
    }
}

struct FakeQueue {
    inner: Arc<dyn Queue>,
    manner: Manner,
    id: DeviceId,
}

impl Queue for FakeQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        match self.manner {
            Manner::Silent => Ok(()),
            Manner::Lost => Err(Error::new(ErrorKind::DeviceLost, "unplugged").on(self.id.clone())),
            _ => self.inner.submit(wait, work, signal),
        }
    }
}

fn options() -> MeasureOptions {
    MeasureOptions {
        sizes: vec![4 << 10, 16 << 10, 64 << 10],
        // This is far more than these sizes take: the test does not look at sizes that are left out
        // for want of time.
        per_link: Duration::from_secs(2),
        patience: Duration::from_millis(300),
    }
}

fn measured(manners: &[Manner]) -> Vec<LinkProfile> {
    let devices: Vec<_> = manners.iter().enumerate().map(|(ordinal, &manner)| fake(ordinal, manner)).collect();
    let mut heard = 0;
    let links = measure(&devices, &standard_transports(), &options(), &mut |_| heard += 1);
    assert_eq!(heard, links.len());
    links
}

fn of<'a>(links: &'a [LinkProfile], from: &str, to: &str, transport: &str) -> &'a LinkProfile {
    let same =
        |link: &&LinkProfile| link.from.to_string() == from && link.to.to_string() == to && link.transport == transport;
    links.iter().find(same).unwrap()
}

fn ends(first: Manner, second: Manner) -> (Endpoint, Endpoint) {
    (Endpoint::Device(fake(0, first)), Endpoint::Device(fake(1, second)))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Sends bytes over a channel, twice, and checks the bytes that arrive.
fn carries(channel: &Channel) {
    let (before, behind) = (Timeline::new(0), Timeline::new(0));
    for value in 1..3u8 {
        let sent: Vec<u8> = (0..channel.source().len()).map(|index| (index % 251) as u8 ^ value).collect();
        channel.source().write(0, &sent).unwrap();
        channel.transfer(&before.at(value.into()), &behind.at(value.into())).unwrap();
        assert!(behind.value() < value.into(), "nothing moves before its point");
        before.advance(value.into());
        behind.wait(value.into(), soon()).unwrap();
        let mut arrived = vec![0; sent.len()];
        channel.target().read(0, &mut arrived).unwrap();
        assert!(arrived == sent);
    }
    before.fail(Error::new(ErrorKind::DeviceLost, "unplugged"));
    channel.transfer(&before.at(3), &behind.at(3)).unwrap();
    assert_eq!(behind.wait(3, soon()).unwrap_err().kind(), ErrorKind::DeviceLost);
}

#[test]
fn every_transport_carries_bytes_and_failures() {
    // This is more than a piece of staging memory, and no multiple of it.
    let bytes = (2 << 20) + 4096;
    let (from, to) = ends(Manner::Sound, Manner::Peer);
    let channel = Channel::connect(&PeerCopy, &from, &to, bytes).unwrap();
    assert_eq!(channel.copied_bytes(), bytes);
    carries(&channel);
    // The same way back does not work: the peer has to be the one that copies, and it only reads.
    assert!(matches!(PeerCopy.applies(&to, &from), Err(Inapplicable::NoPeerAccess { .. })));
    let (from, to) = ends(Manner::Sound, Manner::Sound);
    for (from, to) in [(&from, &to), (&Endpoint::Host, &to), (&from, &Endpoint::Host)] {
        let staged = Channel::connect(&Staged, from, to, bytes).unwrap();
        assert_eq!(staged.copied_bytes(), bytes);
        carries(&staged);
        let shared = Channel::connect(&ZeroCopy, from, to, bytes).unwrap();
        assert_eq!(shared.copied_bytes(), 0);
        carries(&shared);
    }
}

#[test]
fn a_transport_that_does_not_apply_says_why() {
    let (sound, closed) = ends(Manner::Sound, Manner::Closed);
    let id = DeviceId::new("fake", 1);
    assert_eq!(ZeroCopy.applies(&sound, &closed), Err(Inapplicable::NoImport(id.clone())));
    assert_eq!(ZeroCopy.applies(&closed, &Endpoint::Host), Err(Inapplicable::NoImport(id)));
    assert_eq!(PeerCopy.applies(&sound, &Endpoint::Host), Err(Inapplicable::Host));
    assert_eq!(Staged.applies(&Endpoint::Host, &Endpoint::Host), Err(Inapplicable::SameEnd(host_id())));
    let refused = Channel::connect(&ZeroCopy, &sound, &closed, 64).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn sound_devices_are_measured_both_ways() {
    let links = measured(&[Manner::Sound, Manner::Peer]);
    // The links are zero copy with the host both ways, staged with it for two devices both ways,
    // staged between them both ways, and peer copy one way.
    assert_eq!(links.len(), 2 + 4 + 2 + 1);
    for link in &links {
        assert!(!link.samples.is_empty(), "{link:?}");
        assert!(link.samples.iter().all(|sample| sample.seconds.median > 0.0 && sample.seconds.count >= 5));
    }
    assert!(of(&links, "fake:0", "fake:1", "peer-copy").from == DeviceId::new("fake", 0));
}

#[test]
fn devices_that_fail_or_hang_drop_their_own_links_only() {
    let links = measured(&[Manner::Sound, Manner::Silent, Manner::Stuck, Manner::Lost]);
    let stopped = |from: &str, to: &str| of(&links, from, to, "staged").stopped.clone().unwrap();
    for transport in ["zero-copy", "staged"] {
        assert!(!of(&links, "host:0", "fake:0", transport).samples.is_empty());
    }
    let silent = &of(&links, "host:0", "fake:1", "zero-copy").stopped;
    assert!(silent.as_ref().unwrap().contains("deadline passed"), "{silent:?}");
    let stuck = &of(&links, "host:0", "fake:2", "zero-copy").stopped;
    assert!(stuck.as_ref().unwrap().contains("does not come back"), "{stuck:?}");
    assert!(stopped("fake:0", "fake:1").contains("fake:1 did not answer"));
    assert!(stopped("fake:2", "fake:0").contains("fake:2 did not answer"));
    assert!(stopped("fake:0", "fake:3").contains("unplugged"));
    assert!(links.iter().all(|link| !link.samples.is_empty() || link.stopped.is_some()));
}

#[test]
fn bytes_that_do_not_arrive_and_memory_that_ends() {
    let links = measured(&[Manner::Forgetful, Manner::Small]);
    let shared = of(&links, "host:0", "fake:0", "zero-copy");
    assert!(shared.samples.is_empty() && shared.stopped.as_ref().unwrap().contains("others arrive"), "{shared:?}");
    let staged = of(&links, "fake:0", "fake:1", "staged");
    assert_eq!(staged.samples.len(), 2);
    assert!(staged.stopped.as_ref().unwrap().contains("full"));
}
