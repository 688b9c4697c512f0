// Which texts can be asked for as a DNS name: at most 253 characters, labels of 1 to 63, without space or control
// characters (RFC 1035 section 2.3.4; underscores and the like are let through, as Docker does).

const LABEL = /^[^\s.\p{Cc}]{1,63}$/u;

export function isDnsName(text: string): boolean {
  return text.length <= 253 && text.split('.').every((label) => LABEL.test(label) && !/[^\x21-\x7e]/.test(label));
}
