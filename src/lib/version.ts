// What this engine calls itself, and the Docker Engine API versions it speaks.
export const apiVersion = '1.50';
export const minApiVersion = '1.24';
export const engineVersion = '28.2.2-skein';
