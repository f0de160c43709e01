// What a pair does under the three losses of pipeline/losses.py: gradients of n times the loss of a step of n pairs.
// Signs are those of a descent step. `along`: of the score head, in the direction h_w − h_l, in which BSR adds nothing
// where both norms are the same.
function gradients({ delta, distance, mu, mean, eps, power, lambda }) {
  const error = 1 / (1 + Math.exp(delta)); // σ(−Δ)
  const weight = Math.pow(mu / (distance + eps), power);
  return {
    BT: { along: error * distance, chosen: error, rejected: -error },
    NormBT: { along: weight * error * distance, chosen: weight * error, rejected: -weight * error },
    BSR: { along: error * distance, chosen: error - lambda * mean, rejected: -error - lambda * mean },
  };
}
