import{j as o}from"./index-ddfcc940.js";function n(){return o.jsx("p",{children:"soon"})}export{n as JobsPage};
