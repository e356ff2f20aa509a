// Topic patterns, with the rules of the stream: tokens between dots; `*` is one, `>` at the end one or more.
// A lone `*` is everything, also what has no topic.

/** Say what is wrong with a pattern, or give null. */
export function patternProblem(pattern) {
  const tokens = pattern.split(".");
  if (tokens.includes("")) return "A pattern has no empty part between its dots.";
  if (tokens.slice(0, -1).includes(">")) return "A > stands only at the end of a pattern.";
  return null;
}

export function matches(pattern, topic) {
  if (pattern === "*") return true;
  if (topic === null) return false;
  const wanted = pattern.split(".");
  const given = topic.split(".");
  if (wanted.at(-1) === ">") {
    wanted.pop();
    if (given.length <= wanted.length) return false;
  } else if (given.length !== wanted.length) {
    return false;
  }
  return wanted.every((token, place) => token === "*" || token === given[place]);
}
