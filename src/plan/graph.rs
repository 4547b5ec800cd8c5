//! Graphs of numbered nodes. Knows no pipelines.

/// An order in which every edge points forward; among free nodes the smaller number goes first. The error is one cycle, each node
/// pointing at the next and the last at the first.
pub fn order(nodes: usize, edges: &[(usize, usize)]) -> Result<Vec<usize>, Vec<usize>> {
    let mut waiting = vec![0_usize; nodes];
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for &(from, to) in edges {
        waiting[to] += 1;
        next[from].push(to);
    }
    let mut free: std::collections::BTreeSet<usize> = (0..nodes).filter(|&node| waiting[node] == 0).collect();
    let mut order = Vec::with_capacity(nodes);
    while let Some(node) = free.pop_first() {
        order.push(node);
        for &to in &next[node] {
            waiting[to] -= 1;
            if waiting[to] == 0 {
                free.insert(to);
            }
        }
    }
    if order.len() == nodes { Ok(order) } else { Err(cycle(&waiting, edges)) }
}

/// Walks backwards among the nodes that still wait until one comes up again: each of them has a predecessor that waits too.
fn cycle(waiting: &[usize], edges: &[(usize, usize)]) -> Vec<usize> {
    let Some(start) = waiting.iter().position(|&count| count > 0) else { return Vec::new() };
    let mut path = vec![start];
    loop {
        let last = path[path.len() - 1];
        let Some(&(from, _)) = edges.iter().find(|(from, to)| *to == last && waiting[*from] > 0) else { return path };
        if let Some(first) = path.iter().position(|&node| node == from) {
            let mut cycle = path.split_off(first);
            cycle.reverse();
            return cycle;
        }
        path.push(from);
    }
}

/// The connected groups of nodes, each in rising order, sorted by their smallest node.
pub fn groups(nodes: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut root: Vec<usize> = (0..nodes).collect();
    fn find(root: &mut [usize], node: usize) -> usize {
        let mut top = node;
        while root[top] != top {
            root[top] = root[root[top]];
            top = root[top];
        }
        top
    }
    for &(from, to) in edges {
        let (a, b) = (find(&mut root, from), find(&mut root, to));
        root[a.max(b)] = a.min(b);
    }
    let mut groups: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for node in 0..nodes {
        let top = find(&mut root, node);
        groups.entry(top).or_default().push(node);
    }
    groups.into_values().collect()
}

/// Every node from which `node` can be reached, itself left out.
pub fn ancestors(node: usize, edges: &[(usize, usize)]) -> std::collections::BTreeSet<usize> {
    let mut before: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for &(from, to) in edges {
        before.entry(to).or_default().push(from);
    }
    let mut found = std::collections::BTreeSet::new();
    let mut open = vec![node];
    while let Some(at) = open.pop() {
        let new = before.get(&at).into_iter().flatten().copied().filter(|&from| found.insert(from));
        open.extend(new);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_groups_and_cycles() {
        assert_eq!(order(4, &[(3, 0), (0, 1), (3, 1)]), Ok(vec![2, 3, 0, 1]));
        assert_eq!(order(4, &[(0, 1), (1, 2), (2, 1), (2, 3)]), Err(vec![2, 1]));
        assert_eq!(order(2, &[(1, 1)]), Err(vec![1]));
        assert_eq!(groups(5, &[(4, 2), (0, 3)]), vec![vec![0, 3], vec![1], vec![2, 4]]);
        assert_eq!(ancestors(3, &[(0, 1), (1, 3), (2, 0)]).into_iter().collect::<Vec<_>>(), vec![0, 1, 2]);
    }
}
