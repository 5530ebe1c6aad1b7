//! Checks of lowering's promises about memory, on random graphs.
//! Ranges lie within their memory, are aligned, and are not written where they are read.
//! At each launch they hold what the right node has written last.
//! The launches are followed word by word, without a device.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use hetero_hal::{NodeId, Operator, Program, Tensor, ValueId};
use hetero_kernels::{Access, BufferRange, Dialect, Lowered, Place, Target, lower, support};
use programs::{Draft, build};
use proptest::prelude::*;

mod programs;

/// Nodes that only give a value another name, for the search of a producer.
const RENAMING: [&str; 5] = ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"];

/// Returns the value whose content a value has, behind renaming nodes.
fn root(program: &Program, producers: &[Option<NodeId>], mut id: ValueId) -> ValueId {
    while let Some(node) = producers[id.index()].map(|node| &program.nodes()[node.index()])
        && RENAMING.contains(&&*node.operator.name)
    {
        id = node.inputs[0].unwrap();
    }
    id
}

/// Returns the size in bytes of the memory that a range lies in.
fn room(program: &Program, lowered: &Lowered, place: Place) -> usize {
    let bytes = match place {
        Place::Scratch => lowered.scratch,
        Place::Constant(number) => lowered.constants[number].bytes().len(),
        Place::Fault => 4,
        Place::Binding(position) => {
            let id = program.inputs().iter().chain(program.outputs()).nth(position).unwrap();
            program.values()[id.index()].bytes()
        }
    };
    // A range of 0 bytes cannot be bound.
    bytes.max(1)
}

/// Returns the words of a range, because kernels touch whole words.
fn words(bound: &BufferRange) -> std::ops::Range<usize> {
    bound.offset / 4..(bound.offset + bound.bytes).div_ceil(4)
}

fn validate(program: &Program, lowered: &Lowered, target: &Target) {
    let producers = program.producers();
    // The launch that has written each word last.
    let mut written: HashMap<(Place, usize), usize> = HashMap::new();
    for (number, launch) in lowered.launches.iter().enumerate() {
        let kernel = &lowered.kernels[launch.kernel];
        assert_eq!(
            (kernel.buffers.len(), kernel.numbers),
            (launch.buffers.len(), launch.numbers.len()),
            "{}",
            kernel.entry
        );
        assert!(launch.groups.iter().all(|&count| count > 0 && count <= target.groups), "{:?}", launch.groups);
        assert!(kernel.items > 0 && kernel.items <= target.items && kernel.buffers.len() <= target.buffers as usize);
        let bindings = || kernel.buffers.iter().zip(&launch.buffers);
        for (position, (access, bound)) in bindings().enumerate() {
            assert!(bound.bytes > 0 && bound.bytes as u64 <= target.binding_bytes, "{bound:?}");
            assert!(bound.offset.is_multiple_of(target.alignment), "{bound:?} is not aligned to {}", target.alignment);
            let room = room(program, lowered, bound.place);
            assert!(bound.offset + bound.bytes <= room, "{bound:?} in {room} bytes");
            if *access == Access::Write {
                let own = match bound.place {
                    Place::Binding(position) => position >= program.inputs().len(),
                    place => matches!(place, Place::Scratch | Place::Fault),
                };
                assert!(own, "{} writes {bound:?}", kernel.entry);
                for (other, (_, range)) in bindings().enumerate().filter(|(other, _)| *other != position) {
                    let apart = range.place != bound.place
                        || words(range).end <= words(bound).start
                        || words(bound).end <= words(range).start;
                    assert!(apart, "{}: {bound:?} is written and overlaps number {other}, {range:?}", kernel.entry);
                }
            }
        }
        // The values that the nodes read, and the launches that compute them.
        let nodes: HashSet<NodeId> = launch.nodes.iter().copied().collect();
        let uses = launch.nodes.iter().flat_map(|id| program.nodes()[id.index()].uses());
        let roots: HashSet<ValueId> = uses.map(|id| root(program, &producers, id)).collect();
        let right = |writer: &usize| {
            let done = &lowered.launches[*writer].nodes;
            done.iter().any(|node| nodes.contains(node))
                || done.iter().any(|node| {
                    let outputs = program.nodes()[node.index()].outputs.iter().flatten();
                    outputs.into_iter().any(|&id| roots.contains(&root(program, &producers, id)))
                })
        };
        for (_, bound) in bindings().filter(|(access, _)| **access == Access::Read) {
            match bound.place {
                Place::Binding(position) if position < program.inputs().len() => {
                    let id = program.inputs()[position];
                    assert!(roots.contains(&id), "{} reads input {position}, which is not its node's", kernel.entry);
                }
                Place::Constant(_) => {}
                _ => {
                    for word in words(bound) {
                        let writer = written.get(&(bound.place, word));
                        assert!(
                            writer.is_some_and(right),
                            "launch {number}, {}, of {:?} reads word {word} of {bound:?}, written by {writer:?}",
                            kernel.entry,
                            launch.nodes
                        );
                    }
                }
            }
        }
        for (_, bound) in bindings().filter(|(access, _)| **access == Access::Write) {
            written.extend(words(bound).map(|word| ((bound.place, word), number)));
        }
    }
    for (number, id) in program.outputs().iter().enumerate() {
        let (value, place) = (&program.values()[id.index()], Place::Binding(program.inputs().len() + number));
        let from = root(program, &producers, *id);
        for word in 0..value.bytes().div_ceil(4) {
            let writer = written.get(&(place, word)).map(|&launch| &lowered.launches[launch].nodes);
            let right = writer.is_some_and(|nodes| {
                nodes.iter().any(|node| {
                    let outputs = program.nodes()[node.index()].outputs.iter().flatten();
                    outputs.into_iter().any(|&made| root(program, &producers, made) == from)
                })
            });
            assert!(right, "word {word} of the output '{}' is written by {writer:?}", value.name);
        }
    }
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let draft = (any::<usize>(), any::<[usize; 2]>(), any::<usize>(), prop::bool::weighted(0.2));
    let draft = draft.prop_map(|(operator, inputs, detail, output)| Draft { operator, inputs, detail, output });
    prop::collection::vec(draft, 1..20)
}

fn target() -> impl Strategy<Value = Target> {
    let dialect = prop::sample::select(vec![Dialect::OpenClC, Dialect::CudaC, Dialect::Wgsl]);
    let pieces = prop::sample::select(vec![1u64 << 10, 4 << 10, 128 << 20]);
    (dialect, prop::sample::select(vec![16usize, 128, 256]), pieces, 8..64u32).prop_map(
        |(dialect, alignment, pieces, buffers)| {
            let whole = dialect != Dialect::Wgsl;
            Target { alignment, binding_bytes: if whole { u64::MAX } else { pieces }, buffers, ..Target::new(dialect) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn launches_keep_what_is_promised_of_their_memory(drafts in drafts(), target in target()) {
        let program = build(&drafts, |program, node| support(program, node, &target).is_ok());
        // A chain of supported nodes gives no reason to be declined.
        match lower(&program, &target) {
            Ok(lowered) => validate(&program, &lowered, &target),
            Err(error) => prop_assert!(program.nodes().is_empty() || target.dialect == Dialect::Wgsl, "{error}"),
        }
    }

    #[test]
    fn what_is_not_supported_is_declined(drafts in drafts(), target in target()) {
        let program = build(&drafts, |_, _| true);
        if let Err(error) = lower(&program, &target) {
            prop_assert_eq!(error.kind(), hetero_hal::ErrorKind::Unsupported, "{}", error);
        }
    }
}

/// A recurrent layer over an empty sequence has three results, and nothing to launch.
#[test]
fn what_makes_nothing_is_no_launch() {
    let numbers: [(usize, usize, usize); 4] = [
        (2_568_975_750_690_358_283, 1_059_815_637_966_143_169, 0),
        (15_609_612_793_632_184_919, 10_880_412_303_976_665_652, 4_187_824_262_540_758_258),
        (10_515_218_070_064_245_260, 3_141_230_318_136_649_785, 7_907_611_245_746_258_533),
        (1_029_963_725_185_359_287, 2_674_458_532_412_901_461, 0),
    ];
    let drafts = numbers.map(|(operator, input, detail)| Draft { operator, inputs: [input, 0], detail, output: false });
    for tiles in [true, false] {
        let target = Target { tiles, ..Target::new(Dialect::OpenClC) };
        let program = build(&drafts, |program, node| support(program, node, &target).is_ok());
        assert_eq!(program.nodes().len(), drafts.len(), "{program}");
        validate(&program, &lower(&program, &target).unwrap(), &target);
    }
}

#[test]
fn the_suites_cases_keep_it_too() {
    for dialect in [Dialect::OpenClC, Dialect::Wgsl] {
        let target =
            Target { binding_bytes: if dialect == Dialect::Wgsl { 256 } else { u64::MAX }, ..Target::new(dialect) };
        let mut lowered = 0;
        for (name, program) in programs::cases() {
            if let Ok(launches) = lower(&program, &target) {
                let checked = std::panic::catch_unwind(|| validate(&program, &launches, &target));
                assert!(checked.is_ok(), "{name}");
                lowered += 1;
            }
        }
        assert!(lowered > 800, "{lowered}");
    }
}

/// Proves that the checks above notice errors: launches in another order, and ranges that overlap,
/// lie elsewhere or are not aligned.
#[test]
fn broken_launches_are_noticed() {
    let target = Target::new(Dialect::OpenClC);
    let supported = |program: &Program, node: &hetero_hal::Node| support(program, node, &target).is_ok();
    // Finds where the second launch reads what the first has written to scratch memory.
    let reads = |lowered: &Lowered| {
        let scratch = |number: usize, access: Access| {
            let launch = &lowered.launches[number];
            let accesses = &lowered.kernels[launch.kernel].buffers;
            let found =
                accesses.iter().zip(&launch.buffers).position(|(a, b)| *a == access && b.place == Place::Scratch);
            found.map(|position| (position, launch.buffers[position]))
        };
        let (_, written) = scratch(0, Access::Write)?;
        scratch(1, Access::Read).filter(|(_, bound)| *bound == written).map(|(position, _)| position)
    };
    let found = (0..1000).find_map(|seed| {
        let program = build(&programs::drafts(seed, 12), supported);
        let lowered = lower(&program, &target).ok().filter(|lowered| lowered.launches.len() > 1)?;
        reads(&lowered).map(|position| (program, lowered, position))
    });
    let (program, lowered, position) = found.unwrap();
    validate(&program, &lowered, &target);
    let breaks: [&dyn Fn(&mut Lowered); 6] = [
        &|lowered| lowered.launches.swap(0, 1),
        &|lowered| drop(lowered.launches.remove(0)),
        &|lowered| drop(lowered.launches.pop()),
        &|lowered| lowered.launches[1].buffers[position].offset += 4,
        &|lowered| lowered.launches[1].buffers[position].bytes = lowered.scratch + 4,
        &|lowered| {
            let buffers = &mut lowered.launches[1].buffers;
            let last = buffers.len() - 1;
            buffers[last] = buffers[position];
        },
    ];
    for (number, change) in breaks.iter().enumerate() {
        let mut broken = lowered.clone();
        change(&mut broken);
        assert!(std::panic::catch_unwind(|| validate(&program, &broken, &target)).is_err(), "change {number}");
    }
}

#[test]
fn indexes_of_a_run_are_checked_in_it_and_known_ones_before() {
    let gather = |index: i64, constants: &[usize]| {
        let x = Tensor::from_vec(&[3], vec![1.0f32, 2.0, 3.0]).unwrap();
        let index = Tensor::from_vec(&[1], vec![index]).unwrap();
        let operator = Operator::new("Gather", 13);
        let inputs = vec![Some(x), Some(index)];
        let name = "Gather".to_owned();
        let case = hetero_conformance::Case { name, operator, inputs, constants: constants.to_vec(), outputs: 1 };
        hetero_conformance::program(&case).unwrap().0
    };
    for dialect in [Dialect::OpenClC, Dialect::CudaC] {
        let target = Target::new(dialect);
        let lowered = lower(&gather(2, &[]), &target).unwrap();
        let binds =
            |lowered: &Lowered| lowered.launches.iter().flat_map(|l| &l.buffers).any(|b| b.place == Place::Fault);
        assert!(lowered.faults.len() == 1 && binds(&lowered));
        let error = hetero_kernels::KernelFault::check(&lowered.faults, 1).unwrap_err();
        assert_eq!(error.node(), Some(NodeId(0)));
        assert!(hetero_kernels::KernelFault::check(&lowered.faults, 0).is_ok());
        let known = lower(&gather(-3, &[1]), &target).unwrap();
        assert!(known.faults.is_empty() && !binds(&known));
        for outside in [3, -4, 1 << 32] {
            let error = lower(&gather(outside, &[1]), &target).unwrap_err();
            assert!(error.to_string().contains("outside"), "{error}");
        }
    }
}

#[test]
fn many_operands_are_several_launches_within_the_devices_limits() {
    let operand = |_: usize| Some(Tensor::from_vec(&[4], vec![1.0f32; 4]).unwrap());
    let case = hetero_conformance::Case {
        name: "Mean".to_owned(),
        operator: Operator::new("Mean", 13),
        inputs: (0..40).map(operand).collect(),
        constants: vec![],
        outputs: 1,
    };
    let (program, _) = hetero_conformance::program(&case).unwrap();
    for (buffers, launches) in [(64, 3), (8, 7), (3, 40)] {
        let target = Target { buffers, ..Target::new(Dialect::OpenClC) };
        let lowered = lower(&program, &target).unwrap();
        assert_eq!(lowered.launches.len(), launches);
        validate(&program, &lowered, &target);
    }
}
