mod core; mod gap; mod walk; mod random; mod start; mod table; mod tree; mod knapsack;
use std::time::Instant;
pub fn read(path: &str) -> table::Table<1> {
    let t = std::fs::read_to_string(path).unwrap();
    let v: Vec<f64> = t.split_whitespace().map(|x| x.parse().unwrap()).collect();
    let (m, n) = (v[0] as usize, v[1] as usize);
    let (mut costs, mut weights) = (vec![0.0; m*n], vec![[0.0]; m*n]);
    for i in 0..m { for j in 0..n { costs[j*m+i] = v[2+i*n+j]; weights[j*m+i] = [v[2+m*n+i*n+j]]; } }
    let capacities: Vec<[f64; 1]> = v[2+2*m*n..2+2*m*n+m].iter().map(|&c| [c]).collect();
    for j in 0..n { for i in 0..m { if weights[j*m+i][0] > capacities[i][0] { costs[j*m+i] = f64::INFINITY; } } }
    let grain = table::Grain::new(costs.iter().copied(), 1e6);
    table::Table { jobs: n, devices: m, costs, weights, capacities, grain }
}
pub fn run() {
    let a: Vec<String> = std::env::args().collect();
    let secs: f64 = a[1].parse().unwrap(); let seed: u64 = a[2].parse().unwrap();
    let tree_only = std::env::var("TREE").is_ok();
    for name in &a[3..] {
        let gap = read(&format!("/work/shared/data/gap/{name}.txt"));
        let began = Instant::now();
        let mut core = gap.core();
        let top: f64 = (0..gap.jobs).map(|j| (0..gap.devices).map(|i| gap.cost(j,i)).filter(|c| c.is_finite()).fold(0.0, f64::max)).sum();
        core.price(300, top);
        let lb0 = core.bound();
        let of = start::start(&gap, &core, seed, &mut || began.elapsed().as_secs_f64() > secs);
        let Some(of) = of else { println!("{name} no start lb {lb0}"); continue };
        let c0 = gap.total(&of);
        core.price(1000, c0);
        let t2 = began.elapsed().as_secs_f64();
        let mut best = gap::Incumbent { of: Some(of.clone()), cost: c0 };
        let mut walk = gap::Descent::new(&gap, core.prices(), core.bound(), of, seed);
        let mut at = vec![]; let mut last = f64::INFINITY;
        let walk_secs = if tree_only { secs * 0.1 } else { secs };
        while began.elapsed().as_secs_f64() < walk_secs { for _ in 0..16 { walk.step(&mut best); }
            if best.cost < last { last = best.cost; at.push((began.elapsed().as_secs_f64()*100.0).round()/100.0); } }
        print!("{name} start {c0} lb {lb0:.2} -> {:.3} ({t2:.3} s) best {} at {:?} stats {:?}", core.bound(), best.cost, &at[at.len().saturating_sub(3)..], walk.walk.stats);
        if tree_only {
            let mut tree = tree::Tree::new(&gap, &core);
            let t = Instant::now();
            tree.search(1, &mut best, &mut || false);
            let tr = t.elapsed().as_secs_f64();
            print!(" root {:.3} in {tr:.3} s open {}", tree.bound(), tree.open_count());
            let done = tree.search(u64::MAX, &mut best, &mut || began.elapsed().as_secs_f64() > secs);
            print!(" tree done {done} best {} bound {:.3} nodes {} at {:.2}", best.cost, tree.bound(), tree.nodes, began.elapsed().as_secs_f64());
        }
        println!();
    }
}
