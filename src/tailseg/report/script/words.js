// What groups and outcomes are called, and numbers as text.

let GROUPS = {}; // the name of each frequency group, which the data has
const KINDS = { found: "Found", missed: "Missed", confused: "Taken for another class", split: "Split into several detections", merged: "Detections that merge objects", false: "False alarms" };
const FATES = ["missed", "taken for another class", "found"];

const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1));
const signed = (value) => (value === null ? "–" : (value > 0 ? "+" : "") + (100 * value).toFixed(1));
const whole = (value) => value.toLocaleString("en");
const clip = (text, length) => (text.length > length ? `${text.slice(0, Math.max(1, length - 1))}…` : text);
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
const counted = (count, one, many) => `${whole(count)} ${count === 1 ? one : many}`;
